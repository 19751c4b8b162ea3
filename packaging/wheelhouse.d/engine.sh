# shellcheck shell=bash
# The wheel of llama-cpp-python: compiled for any processor that llmsvc runs on, or for this one alone. Sourced, never run.

# What numpy's wheels, and so whatever runs llama-cpp-python, need: x86-64-v2, which processors have since 2008
portable_instructions() {
    case $(uname -m) in
    x86_64) echo "ssse3 sse4_1 sse4_2 popcnt cx16" ;;
    aarch64) echo "fp asimd" ;;
    esac
}

# native_instructions: those of this processor that a compiler uses of itself
native_instructions() {
    sed -n '/^\(flags\|Features\)[[:space:]]*:/{s/^[^:]*://p;q}' /proc/cpuinfo | tr ' ' '\n' |
        grep -xE 'ssse3|sse4_[12]|popcnt|cx16|avx|avx2|fma|f16c|bmi[12]|abm|movbe|avx512[a-z0-9_]*|avx_[a-z0-9_]*|amx_[a-z0-9_]*|asimd[a-z]*|sve[0-9a-z]*|i8mm|bf16' |
        paste -sd ' '
}

# instructions FOR ACCEL: what the engine needs of a processor. FOR is `any` or `this`.
instructions() {
    if [ "$2" = native ]; then
        [ "$(uname -m)" != x86_64 ] || echo "sse4_2 avx f16c fma avx2 bmi2" # of xllamacpp on PyPI
    elif [ "$1" = any ]; then
        portable_instructions
    else
        native_instructions
    fi
}

# engine_options FOR: how CMake is told to build it. The libraries in one place instead of two, nothing for pictures;
# and for any processor kernels for 14 generations of them, of which the best is chosen as it starts
# (llmsvc/backend/llama_cpp_python/internals.py). Elsewhere than on x86 these need newer compilers than Debian's.
engine_options() {
    echo "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib -DCMAKE_INSTALL_LIBDIR=llama_cpp/lib -DCMAKE_INSTALL_INCLUDEDIR=llama_cpp/include"
    echo "-DLLAVA_BUILD=OFF"
    [ "$1" = any ] || return 0
    echo "-DGGML_NATIVE=OFF"
    [ "$(uname -m)" != x86_64 ] || echo "-DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"
}

# engine_wheel FOR ACCEL: sets $engine to the compiled llama-cpp-python, from the cache if it was compiled before, for
# such a processor, against a C library that is not newer than ours
engine_wheel() {
    local processor=$1 accel=$2 version name glibc built
    version=$(sed -n 's/^llama-cpp-python==\([^ ]*\).*/\1/p' "$root/packaging/requirements.lock")
    name=$version-$(uname -m)-$(engine_options "$processor" | sha256sum | cut -c1-6)
    [ "$processor" = any ] || name=$name-$(native_instructions | sha256sum | cut -c1-12)
    [ "$accel" = cpu ] || name=$name-$accel
    glibc=$(ldd --version | sed -n '1s/.* //p')
    for built in "$cache/engine/$name-glibc"*/*.whl; do
        [ -e "$built" ] || continue
        engine=${built#"$cache/engine/$name-glibc"}
        if [ "$(printf '%s\n' "${engine%%/*}" "$glibc" | sort -V | head -n 1)" = "${engine%%/*}" ]; then
            engine=$built
            return
        fi
    done
    local place=$cache/engine/$name-glibc$glibc
    mkdir "$work/engine"
    if [ "$accel" != cpu ] && prebuilt_engine "$accel" "$version" "$work/engine"; then
        step "llama-cpp-python $version for $accel, from $engine_index: $(sha256sum "$work"/engine/*.whl | cut -c1-64)"
    else
        [ "$accel" = cpu ] || compile_for "$accel" "$version"
        compile_engine "$processor" "$version"
    fi
    mkdir -p "$place"
    engine=$place/$(basename -- "$work"/engine/*.whl)
    cp -- "$work"/engine/*.whl "$place/.new"
    mv -f -- "$place/.new" "$engine"
}

# compile_engine FOR VERSION: into $work/engine
compile_engine() {
    local processor=$1 version=$2 minutes=6 whom="for this machine" pid last=0 now
    if [ -x "$(command -v apt-get)" ]; then apt_install g++; fi
    command -v c++ >/dev/null || die "llama-cpp-python must be compiled, and there is no C++ compiler" "install g++"
    if [ "$processor" = any ]; then whom="for any processor" minutes=9; fi
    # beside the libraries, what they need of a processor: llmsvc/library/processor.py
    instructions "$processor" cpu >"$work/instructions"
    echo "install(FILES $work/instructions DESTINATION llama_cpp/lib)" >"$work/engine.cmake"
    CMAKE_ARGS="${CMAKE_ARGS:-} $(engine_options "$processor" | paste -sd ' ') -DCMAKE_PROJECT_llama_cpp_INCLUDE=$work/engine.cmake"
    export CMAKE_ARGS
    step "compiling llama-cpp-python $version $whom: about $minutes minutes on 2 cores, once (--engine native needs no compiler)"
    requirement llama-cpp-python >"$work/engine.txt"
    # pip's wheel cache ignores CMAKE_ARGS; SOURCE_DATE_EPOCH would turn the processor's fast instructions off
    # a group of its own: a background process ignores Ctrl-C, and the compilers below it would go on without us
    setsid env -u SOURCE_DATE_EPOCH "$work/build/bin/pip" wheel -v --no-cache-dir --no-build-isolation --no-deps --require-hashes \
        -r "$work/engine.txt" -w "$work/engine" >"$work/compile.log" 2>&1 </dev/null &
    pid=$!
    # shellcheck disable=SC2064  # the group of now
    trap "kill -- -$pid 2>/dev/null; rm -rf -- '$work'" EXIT
    while kill -0 "$pid" 2>/dev/null; do
        sleep 2
        now=$(tail -c 4096 "$work/compile.log" | tr '\r' '\n' | sed -n 's|^ *\[\([0-9]*\)/\([0-9]*\)\].*|\1 \2|p' | tail -n 1)
        [ -n "$now" ] || continue
        now=$((${now% *} * 100 / ${now#* }))
        [ "$now" -lt $((last + 10)) ] || { step "compiling: $now %" && last=$now; }
    done
    wait "$pid" || {
        tail -n 25 "$work/compile.log" >&2
        die "llama-cpp-python could not be compiled"
    }
    trap 'rm -rf -- "$work"' EXIT
}

# requirement NAME: its block of the lock file
requirement() { awk -v name="$1" '/^[^ #]/ { on = index($0, name "==") == 1 } on' "$root/packaging/requirements.lock"; }
