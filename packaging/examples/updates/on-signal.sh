#!/bin/sh
# Reads its secrets again at each SIGHUP: on-signal.sh [DIRECTORY]
# For a container with run.secrets.update=live and run.secrets.on-update=signal:HUP, as its first process.
directory=${1:-/run/secrets}

load() {
    # A set belongs together: read it from one directory, which stays as it is once it is the working directory.
    cd / && cd "$directory" && echo "loaded $(cat ./* | wc -c) bytes"
}

trap load HUP
load
while :; do
    # A trap runs at once only while the shell waits.
    sleep 3600 &
    wait $!
    kill $! 2>/dev/null
done
