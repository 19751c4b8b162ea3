-- Sends requests for some seconds, then waits for every answer, so that requests sent = answers = rows of the ledger.
--
--   wrk -t1 -cCLIENTS -dLIMIT -s wrk.lua URL -- SECONDS CLIENTS PATH BODY_FILE KEYS_FILE
--
-- wrk cuts what runs at its end; here delay(), which it calls before each request, first lets no more out and then
-- ends it. The last line of its output is JSON; times are microseconds.

local ffi = require("ffi")
ffi.cdef [[
typedef struct { long seconds, nanoseconds; } bench_time;
int clock_gettime(int clock, bench_time *time);
int getpid(void);
int kill(int pid, int signal);
]]
local MONOTONIC, SIGINT, NEVER = 1, 2, 3600000
local time = ffi.new("bench_time")
local threads = {}

local function now()
    ffi.C.clock_gettime(MONOTONIC, time)
    return tonumber(time.seconds) + tonumber(time.nanoseconds) / 1e9
end

local function read(name)
    local file = assert(io.open(name, "rb"))
    local text = file:read("*a")
    file:close()
    return text
end

function setup(thread) table.insert(threads, thread) end

function init(args)
    seconds, clients = tonumber(args[1]), tonumber(args[2])
    local body = read(args[4])
    requests, number = {}, 0
    for key in read(args[5]):gmatch("[^\n]+") do
        table.insert(requests, table.concat({
            "POST " .. args[3] .. " HTTP/1.1", "Host: " .. wrk.host, "Authorization: Bearer " .. key,
            "Content-Type: application/json", "Content-Length: " .. #body, "", body}, "\r\n"))
    end
    sent, calls, first, spent = 0, 0, nil, 0
end

function request()
    number = number % #requests + 1
    return requests[number]
end

function delay()
    calls = calls + 1
    first = first or now()
    if now() - first < seconds then
        sent = sent + 1
        return 0
    end
    -- one call is from each new connection, one from each answer
    if calls == clients + sent then
        spent = now() - first
        ffi.C.kill(ffi.C.getpid(), SIGINT)
    end
    return NEVER
end

function done(summary, latency, _)
    local errors = summary.errors
    local all = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    print(string.format(
        '{"sent": %d, "answers": %d, "errors": %d, "seconds": %.6f, "p50": %d, "p95": %d, "p99": %d}',
        threads[1]:get("sent"), summary.requests, all, threads[1]:get("spent"),
        latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
