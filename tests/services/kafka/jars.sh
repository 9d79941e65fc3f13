# Where Kafka's jars are, and how they get there; sourced, never run.

kafka_home=${BASH_SOURCE[0]%/*}
kafka_version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$kafka_home/pom.xml")

kafka_jars() { echo "$(cache_folder)/kafka-$kafka_version"; }
kafka_cached() { [ -d "$(kafka_jars)" ]; }

# fetch_kafka_jars: from Maven Central, checksums enforced; the folder appears at once and complete, or not at all.
fetch_kafka_jars() {
    kafka_cached && return
    local jars partial
    jars=$(kafka_jars)
    mkdir -p "${jars%/*}"
    partial=$(mktemp -d "$jars.partial-XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    trap 'exit 143' TERM # once mvn has ended, which gets the signal too
    say "fetching Apache Kafka $kafka_version from Maven Central"
    MAVEN_OPTS="${MAVEN_OPTS:-} -XX:-UsePerfData" \
        mvn --batch-mode --quiet --strict-checksums --file "$kafka_home/pom.xml" \
        -Dmaven.repo.local="$partial/repository" -DincludeScope=runtime -DoutputDirectory="$partial/jars" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies >&2 ||
        die "mvn could not fetch Apache Kafka $kafka_version"
    mv --no-target-directory "$partial/jars" "$jars" 2>/dev/null || kafka_cached || die "cannot write $jars"
    rm -rf "$partial"
    trap - EXIT TERM
}
