"""A second PostgreSQL cluster in a machine, over TCP with TLS and a password, as one on another host."""

from __future__ import annotations

PASSWORD = "se:cr\\et"
CLUSTER = """
version=$(ls /usr/lib/postgresql)
place=/etc/postgresql/$version/elsewhere
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=db.example.test -keyout /root/db.key \
    -addext subjectAltName=DNS:db.example.test -out /etc/ssl/db.pem 2>/dev/null
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other -keyout /dev/null \
    -out /etc/ssl/other.pem 2>/dev/null
grep -q db.example.test /etc/hosts || echo 127.0.0.1 db.example.test >>/etc/hosts
pg_createcluster $version elsewhere -p 5544 --encoding=UTF8 --locale=C -- --auth-host=scram-sha-256 >/dev/null
install -o postgres -m 0600 /root/db.key $place/db.key
printf "%s\\n" "listen_addresses = '127.0.0.1'" "ssl = on" "ssl_cert_file = '/etc/ssl/db.pem'" \
    "ssl_key_file = '$place/db.key'" >>$place/postgresql.conf
printf '%s\\n' 'hostssl all all 127.0.0.1/32 scram-sha-256' 'local all postgres peer' >$place/pg_hba.conf
pg_ctlcluster $version elsewhere start
cd / && runuser -u postgres -- psql -qp 5544 -c "CREATE ROLE llm LOGIN PASSWORD '$(cat /root/password)'" \
    -c "CREATE DATABASE llm OWNER llm ENCODING 'UTF8' TEMPLATE template0"
"""
URL = "postgresql://llm@db.example.test:5544/llm?sslmode=verify-full&sslrootcert=/etc/ssl/"
COUNT = (
    "cd / && runuser -u postgres -- psql -qAtp 5544 llm -c "
    "\"select count(*) from llama_requests where state = 'ok'\""
)
