#!/usr/bin/env bash
# rabbitmq.sh DIR PORT DIST_PORT EPMD_PORT: a private RabbitMQ node in DIR/rabbitmq with an epmd of its own, so that
# nothing is shared with a node of the machine and nothing outlives it. Run again, it starts the node that was stopped.
# BARID_SERVICES_OPTIONS: more lines for rabbitmq.conf.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
. "$here/lib.sh"
. "$here/packages.sh"
dir=$1 port=$2 dist_port=$3 epmd_port=$4 data=$1/rabbitmq

mkdir -p "$data/home" "$data/log"
echo '[].' >"$data/enabled_plugins"
cat >"$data/rabbitmq.conf" <<EOF
listeners.tcp.1 = 127.0.0.1:$port
log.file.level = warning
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 67108864
${BARID_SERVICES_OPTIONS-}
EOF
export HOME=$data/home ERL_EPMD_PORT=$epmd_port ERL_EPMD_ADDRESS=127.0.0.1 ERL_CRASH_DUMP=$data/log/erl_crash.dump
export RABBITMQ_NODENAME=barid@localhost RABBITMQ_NODE_PORT=$port RABBITMQ_DIST_PORT=$dist_port
export RABBITMQ_MNESIA_BASE=$data/mnesia RABBITMQ_LOG_BASE=$data/log RABBITMQ_CONF_ENV_FILE=/dev/null
export RABBITMQ_CONFIG_FILE=$data/rabbitmq.conf RABBITMQ_ADVANCED_CONFIG_FILE=$data/advanced.config
export RABBITMQ_ENABLED_PLUGINS_FILE=$data/enabled_plugins RABBITMQ_GENERATED_CONFIG_DIR=$data/generated
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
# The start script then becomes the Erlang machine, and the recorded process id is the one that stops it.
export RUNNING_UNDER_SYSTEMD=true

running "$dir" epmd || launch "$dir" epmd KILL "$(command -v epmd)" -port "$epmd_port" -address 127.0.0.1
launch "$dir" rabbitmq TERM "$(rabbitmq_program rabbitmq-server)"
# Sends the protocol header of AMQP 0-9-1; a node that serves answers with Connection.Start, a method frame on channel 0.
answers() {
    local answer
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'AMQP\0\0\011\001' >&3
    answer=$(timeout 5 head -c 11 <&3 | od -An -tx1 | tr -d ' \n')
    exec 3<&-
    case $answer in 010000????????000a000a) return 0 ;; *) return 1 ;; esac
}
answers_apart() { (answers); }
await "$dir" rabbitmq 90 answers_apart
echo "amqp://guest:guest@127.0.0.1:$port/%2f" >"$dir/rabbitmq.url"
