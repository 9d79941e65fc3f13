#!/usr/bin/env bash
# kafka.sh DIR PORT CONTROLLER_PORT: a private Apache Kafka in DIR/kafka: KRaft, one node, broker and controller in one
# process. Topics are created by the tests, never by a typing error.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
. "$here/lib.sh"
. "$here/packages.sh"
. "$here/kafka/jars.sh"
dir=$1 port=$2 controller_port=$3 data=$1/kafka

fetch_kafka_jars
mkdir -p "$data"
cat >"$data/server.properties" <<EOF
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller_port
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$data/logs
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
log.cleaner.dedupe.buffer.size=4194304
EOF
java=$(java_program)
options=(-Xms128m -Xmx512m -XX:+UseSerialGC -XX:-UsePerfData "-XX:ErrorFile=$data/crash.log"
    "-Dlog4j2.configurationFile=$here/kafka/log4j2.properties" "-Dbarid.kafka.log=$dir/kafka.log" -cp "$(kafka_jars)/*")
cluster=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')
"$java" "${options[@]}" kafka.tools.StorageTool format --cluster-id="$cluster" --config "$data/server.properties" \
    >"$dir/kafka.out" 2>&1 || { cat "$dir/kafka.out" >&2; die "the storage of Kafka could not be formatted"; }

launch "$dir" kafka TERM "$java" "${options[@]}" kafka.Kafka "$data/server.properties"
# Asks for metadata (version 1, no topics). The answer is: size, correlation id 7, number of brokers; the controller
# lists our broker once it is registered and not fenced.
answers() {
    local answer
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf '\0\0\0\016\0\003\0\001\0\0\0\007\377\377\0\0\0\0' >&3
    answer=$(timeout 5 head -c 12 <&3 | od -An -tx1 | tr -d ' \n')
    exec 3<&-
    case $answer in ????????0000000700000001) return 0 ;; *) return 1 ;; esac
}
answers_apart() { (answers); }
await "$dir" kafka 90 answers_apart
echo "127.0.0.1:$port" >"$dir/kafka.url"
