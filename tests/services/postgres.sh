#!/usr/bin/env bash
# postgres.sh DIR PORT: a private PostgreSQL in DIR/postgres. Durable as in production (fsync on), small otherwise.
# Two-phase commit and logical decoding are on because tests need them. Run again, it starts the server that was stopped.
# BARID_SERVICES_OPTIONS: more arguments for the server.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
. "$here/lib.sh"
. "$here/packages.sh"
dir=$1 port=$2 data=$1/postgres
bin=$(dirname "$(postgres_program initdb)")

create() {
    own_folder "$data" postgres
    echo "$TEST_PASSWORD" >"$dir/postgres.password"
    as_user postgres "$bin/initdb" --pgdata="$data" --username="$TEST_USER" --pwfile="$dir/postgres.password" \
        --auth=scram-sha-256 --encoding=UTF8 --locale=C --no-sync >"$dir/postgres.out" 2>&1 ||
        { cat "$dir/postgres.out" >&2; die "initdb failed"; }
    cat >>"$data/postgresql.conf" <<EOF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
max_connections = 300
max_prepared_transactions = 64
wal_level = logical
shared_buffers = 64MB
max_wal_size = 512MB
EOF
}
[ -e "$data" ] || create
cd "$data"
# SIGINT is the fast shutdown: sessions are ended, the cluster is closed cleanly.
launch "$dir" postgres INT $(as_user_words postgres) "$bin/postgres" -D "$data" \
    ${BARID_SERVICES_OPTIONS-}
answers() {
    PGPASSWORD=$TEST_PASSWORD PGCONNECT_TIMEOUT=5 psql --no-psqlrc --host=127.0.0.1 --port="$port" \
        --username="$TEST_USER" --dbname=postgres --command='SELECT 1'
}
await "$dir" postgres 60 answers
echo "postgres://$TEST_USER:$TEST_PASSWORD@127.0.0.1:$port/postgres" >"$dir/postgres.url"
