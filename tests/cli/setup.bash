# Functions and variables for the commands of transcripts. $DIR is the working directory, $CONNECT, $KMS and $TOKEN belong to the stand-in.
umask 077
PATH=$DIR/bin:$PATH
set -o pipefail
SOURCES=$(cd "${BASH_SOURCE[0]%/*}/../.." && pwd)
vault=agentvault0000000000000000
aws_kek=aws-kms://arn:aws:kms:eu-central-1:123456789012:key
kek=gcp-kms://projects/acme/locations/europe/keyRings/agents/cryptoKeys

oci-secrets() { command oci-secrets --settings "$DIR/settings.toml" "$@"; }

# The same as a user without root, whose configuration is in $DIR/home. The program is copied: the user may have no access to the build.
user() {
    cp -u "$(type -P oci-secrets)" "$DIR/oci-secrets" && chmod 755 "$DIR/oci-secrets"
    setpriv --reuid 1000 --clear-groups env XDG_CONFIG_HOME="$DIR/home" "$DIR/oci-secrets" "$@"
}

# The same as that user's root, in a user namespace.
rootless() { XDG_CONFIG_HOME=$DIR/home unshare --user --map-root-user --mount "$(type -P oci-secrets)" "$@"; }

# Writes settings that grant all of AgentVault to every container; the arguments are lines that follow.
# shellcheck disable=SC2120 # Transcripts have arguments for it.
settings() {
    rm -f "$DIR/settings.toml" "$DIR/token"
    printf '%s\n' >"$DIR/settings.toml" "keks = [\"$kek/*\", \"local-kek:trial\"]" '[connect]' "url = \"$CONNECT\"" \
        "token-file = \"$DIR/token\"" '[gcp-kms]' "endpoint = \"$KMS\"" '[local-kek]' "directory = \"$DIR/keks\"" \
        '[deliver]' "deadline = \"${DEADLINE:-8s}\"" '[[grant]]' 'references = ["op://AgentVault/*"]' "$@"
    printf '%s' "$TOKEN" >"$DIR/token"
}

# Stores an item in AgentVault: item TITLE LABEL VALUE
item() {
    jq -n --arg vault "$vault" --arg title "$1" --arg field "$2" --arg value "$3" \
        '{vault: {id: $vault}, title: $title, category: "PASSWORD", fields: [{label: $field, type: "CONCEALED", value: $value}]}' |
        curl -sf -o /dev/null -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' --data-binary @- \
            "$CONNECT/v1/vaults/$vault/items"
}

# Stores a canary in AgentVault, sealed under a key whose name selects a fault, and starts a container with it: with_key KEY [KEKS]
with_key() {
    item "$1" password "$(printf canary-secret | oci-secrets seal --kek "${2:-$kek}/$1" --for "op://AgentVault/$1/password")"
    start "run.secrets/x=op://AgentVault/$1/password"
}

# Seals a canary under a key whose name selects a fault: seal_with KEY [KEKS]
seal_with() { printf canary-secret | oci-secrets seal --kek "${2:-$kek}/$1" --for op://AgentVault/db/password; }

# Writes settings that list the keys of AWS KMS, with these lines in [aws-kms]; by default at the stand-in: aws_settings [LINE...]
aws_settings() {
    settings '[aws-kms]' "${@:-endpoint = \"$KMS\"}"
    sed -i "s|^keks = .*|keks = [\"$aws_kek/*\"]|" "$DIR/settings.toml"
}

# Encrypts a canary or $PLAINTEXT under a key as the KMS's own tool does, with this text as its context, and starts a container with it:
# direct ITEM KEK CONTEXT
direct() {
    local item=$1 bytes
    shift
    case $1 in
    aws-kms://*)
        bytes=$(curl -sf -H 'X-Amz-Target: TrentService.Encrypt' "$KMS" -d "{\"KeyId\": \"${1#aws-kms://}\",
            \"Plaintext\": \"$(printf %s "${PLAINTEXT-canary}" | base64)\", \"EncryptionContext\": {\"associated-data\": \"$2\"}}" | jq -r .CiphertextBlob)
        ;;
    *)
        bytes=$(curl -sf "$KMS/v1/${1#gcp-kms://}:encrypt" -d "{\"plaintext\": \"$(printf %s "${PLAINTEXT-canary}" | base64)\",
            \"additionalAuthenticatedData\": \"$(printf %s "$2" | base64 -w 0)\"}" | jq -r .ciphertext)
        ;;
    esac
    item "$item" password "sealed:v1/direct $1 $bytes"
    start "run.secrets/x=op://AgentVault/$item/password"
}

# Runs the hook for a container with these annotations: start KEY=VALUE...
# Its process has its own mount namespace, with the root filesystem at $AT; its bundle is $DIR/bundle.
start() {
    mkdir -p "$DIR/bundle/rootfs"
    [ -e "$DIR/bundle/config.json" ] ||
        printf '%s' '{"ociVersion":"1.0.2","process":{"user":{"uid":1000,"gid":1000}},"root":{"path":"rootfs"}}' >"$DIR/bundle/config.json"
    # shellcheck disable=SC2016 # Another shell expands it.
    coproc CONTAINER {
        exec unshare -m --propagation private sh -c 'mount --bind "$1" "$2" && echo && exec cat' sh \
            "$DIR/bundle/rootfs" "${AT:-$DIR/bundle/rootfs}"
    }
    read -r <&"${CONTAINER[0]}"
    state "$CONTAINER_PID" "$@" | hook
    local code=$?
    eval "exec ${CONTAINER[1]}>&-"
    wait "$CONTAINER_PID" 2>/dev/null
    return $code
}

# Writes settings with which the hook asks a broker at $DIR/sock, whose state is in $DIR.
revoking() {
    settings '[broker]' "socket = \"$DIR/sock\"" '[updates]' "directory = \"$DIR/containers\"" "revoked = \"$DIR/revoked.json\"" \
        '[audit]' "file = \"$DIR/audit.jsonl\""
}

# Starts the broker of the settings, which runs until $DIR/broker.pid is killed.
broker() {
    command oci-secrets-broker --settings "$DIR/settings.toml" </dev/null >"$DIR/log" 2>&1 &
    echo $! >"$DIR/broker.pid"
    until [ -S "$DIR/sock" ]; do sleep 0.01; done
}

# Runs the hook for a container with these annotations, which runs until $DIR/kept.pid is killed: keep KEY=VALUE...
keep() {
    # shellcheck disable=SC2119 # The annotations are in the state that the hook gets.
    bundle_with_hook
    mkdir -p "$DIR/bundle/rootfs"
    # shellcheck disable=SC2016 # Another shell expands it.
    unshare -m --propagation private sh -c 'mount --bind "$1" "$1" && : >"$2" && exec sleep 300' sh \
        "$DIR/bundle/rootfs" "$DIR/kept" </dev/null >/dev/null 2>&1 &
    echo $! >"$DIR/kept.pid"
    until [ -e "$DIR/kept" ]; do sleep 0.01; done
    state $! "$@" | hook
}

# The names of the files that this container has.
kept() { nsenter --target "$(<"$DIR/kept.pid")" --mount ls "$DIR/bundle/rootfs/run/secrets"; }

# Accepts one NRI plugin at $DIR/nri, sends it these bytes, and waits until $DIR/log has this text: nri_runtime HEX TEXT
nri_runtime() {
    python3 -c "import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind('new')
listener.listen()
os.rename('new', 'nri')
plugin, _ = listener.accept()
plugin.recv(999)
plugin.send(bytes.fromhex(sys.argv[1]))
plugin.shutdown(socket.SHUT_WR)
while plugin.recv(999):
    pass" "$1"
    until grep -qs "$2" log; do sleep 0.01; done
    grep -m1 "$2" log
}

# Prints the state of a container: state PID KEY=VALUE...
state() {
    local pid=$1
    shift
    jq -n --arg bundle "${AT_BUNDLE:-$DIR/bundle}" --argjson pid "$pid" \
        '{ociVersion: "1.0.2", id: "4f2a9c1b77de0011", status: "creating", pid: $pid, bundle: $bundle,
          annotations: ($ARGS.positional | map(capture("(?<key>[^=]*)=(?<value>.*)"; "s")) | from_entries)}' --args -- "$@"
}

# Runs the hook with the state on standard input, through a broker that has the settings and these lines: ask_broker_with LINES...
ask_broker_with() {
    local broker code
    rm -f b
    cp settings.toml broker.toml
    printf '%s\n' "$@" >>broker.toml
    printf '[broker]\nsocket = "%s"\n' "$DIR/b" >hook.toml
    oci-secrets-broker --settings "$DIR/broker.toml" --socket "$DIR/b" 2>/dev/null &
    broker=$!
    until [ -S b ]; do sleep 0.01; done
    oci-secrets-hook --settings "$DIR/hook.toml"
    code=$?
    kill $broker
    wait $broker 2>/dev/null
    return $code
}

# The program that stands where the hook was, after a removal of the package.
removed() { "$SOURCES/packaging/hook/removed"; }

# Prints its exit code for the state on standard input: removed_code NAME
removed_code() { removed 2>/dev/null; echo "$1: $?"; }

# Puts a storage of podman's into $DIR, with a container c1 and its image, whose manifest has these members: image NAME=JSON...
image() {
    mkdir -p "$DIR/overlay-containers/c1/userdata" "$DIR/overlay-images/i1"
    printf '[{"id":"c1","image":"i1"}]' >"$DIR/overlay-containers/containers.json"
    jq -n '$ARGS.positional | map(capture("(?<key>[^=]*)=(?<value>.*)") | .value |= fromjson) | from_entries' \
        --args -- "$@" >"$DIR/overlay-images/i1/manifest"
}

# Runs the hook with its state on standard input; $AS is a command prefix. With $BROKER it has no settings but the socket of a broker,
# which has the others.
hook() {
    local hook; hook=$(command -v oci-secrets-hook)
    local words; read -ra words <<<"${AS:-}"
    if [ -n "${BROKER:-}" ]; then
        through_broker "${words[@]}" "$hook"
    else
        env -i PATH=/usr/bin "${words[@]}" "$hook" --settings "$DIR/settings.toml"
    fi
}

# Runs a hook that asks a broker, which is started for this one call. A broker that cannot use its settings does not start: what it prints
# then takes the place of what the hook says of it.
through_broker() {
    local code broker=0 home words
    home=$(mktemp -d "$DIR/.broker.XXXXXX")
    local socket=$home/sock
    # The hook's prefix is the broker's, too: what one of them may not do, the other may not.
    read -ra words <<<"${AS:-}"
    printf '[broker]\nsocket = "%s"\n' "$socket" >"$home/hook.toml"
    env -i PATH=/usr/bin "${words[@]}" "$(command -v oci-secrets-broker)" --settings "$DIR/settings.toml" --socket "$socket" \
        </dev/null >/dev/null 2>"$home/log" &
    local pid=$!
    while [ ! -S "$socket" ] && kill -0 $pid 2>/dev/null; do sleep 0.005; done
    env -i PATH=/usr/bin "$@" --settings "$home/hook.toml" 2>"$home/stderr"
    code=$?
    kill $pid 2>/dev/null
    wait $pid || broker=$?
    if [ $broker != 0 ] && grep -q 'cannot reach the broker' "$home/stderr"; then
        sed 's/^oci-secrets-broker: error: /oci-secrets-hook: error: container 4f2a9c1b77de: /; s/^oci-secrets-broker: /oci-secrets-hook: /' \
            "$home/log" >&2
        code=$broker
    else
        cat "$home/stderr" >&2
    fi
    rm -r "$home"
    return $code
}

# Blanks what differs from host to host in the table of `check`: the kernel's release, whether there is swap, and which runtimes there are.
blank() {
    sed -E -e '/^(ok|note|warning) +(runc|crun|youki|podman|crio|containerd|dockerd):/d; /-> .*oci-secrets install/d' \
        -e '/turn swap off or encrypt it$/d; s/turn swap off or encrypt it; //' \
        -e 's/^(ok|warning) +(kernel: .*tmpfs can be made).*/ok       \2 …/; s/(mounts are not tested).*/\1 …/' \
        -e 's/Linux [^:]*:/Linux …:/; s/expires in [0-9]+ days/expires in … days/; s/(until|expired at) [0-9TZ:-]+/\1 …/'
}

# Blanks times, digests, ids of items and emergencies, and public keys, which differ from run to run.
blank_times() {
    sed -E 's/20[0-9-]{8} [0-9:]{5,8} UTC/…/g; s/"20[0-9-]{8}T[0-9:.]+Z"/"…"/; s/[0-9a-f]{64}/…/g; s/emergency [0-9a-f]{12}/emergency …/g; s/new[0-9]{23}/…/g; s/20[0-9-]{8}T[0-9:]{8}Z/…/; s/age1[0-9a-z]{58}/age1…/; s/(hosts    )"'"$(uname -n)"'"/\1"…"/; s/(ssh-ed25519) [A-Za-z0-9+\/]+/\1 …/g'
}

# Creates $DIR/bundle with these annotations: bundle KEY=VALUE...
bundle() {
    mkdir -p "$DIR/bundle"
    jq -n '{ociVersion: "1.0.2", annotations: ($ARGS.positional | map(capture("(?<key>[^=]*)=(?<value>.*)")) | from_entries)}' \
        --args -- "$@" >"$DIR/bundle/config.json"
}

# Runs the wrapper around a runtime that prints its command line.
runtime() {
    printf '#!/bin/sh\necho "runc $*"\n' >"$DIR/real"
    chmod 755 "$DIR/real"
    oci-secrets-runtime --runtime "$DIR/real" "$@"
}

# Installs a stand-in for 1Password's CLI as $DIR/op, with these members in its setup: op NAME=VALUE...
# shellcheck disable=SC2120 # Transcripts have arguments for it.
op() {
    cp "$(dirname "${BASH_SOURCE[0]}")/../support/op" "$DIR/op"
    rm -f "$DIR/op.calls"
    jq -n --arg connect "$CONNECT" --arg token "$TOKEN" '{connect: $connect, token: $token} +
        ($ARGS.positional | map(capture("(?<key>[^=]*)=(?<value>.*)")) | from_entries)' --args -- "$@" >"$DIR/op.json"
}

# Writes settings that use it as the source, and allow plaintext values; the arguments are lines of [op].
op_settings() {
    # shellcheck disable=SC2119 # The arguments are for another.
    op && settings
    rm -f "$DIR/op-token"
    printf 'ops_canary-service-account\n' >"$DIR/op-token"
    sed -i "/^\[connect\]/,/^token-file/d; s|^references = .*|references = [\"op://*\"]|; s|^\[deliver\]|&\nplaintext = \"allow\"|" "$DIR/settings.toml"
    printf '%s\n' '[op]' "program = \"$DIR/op\"" "$@" >>"$DIR/settings.toml"
}

# Writes settings with these lines in [static-token], and starts a new audit file.
conditions() {
    rm -f "$DIR/audit.jsonl"
    settings '[audit]' "file = \"$DIR/audit.jsonl\"" '[static-token]' "$@"
}

# Blanks days, times, ages and item ids, which differ from run to run.
blank_uses() {
    sed -E 's/(mon|tue|wed|thu|fri|sat|sun) ([0-9:]{5} UTC|00:00)/… \2/g; s/[0-9:]{5} UTC/…/g; s/^2[^ ]*/…/; s/item [a-z0-9]{26}/item …/; s/is [0-9hms ]* old/is … old/'
}

# Whether a process blocks SIGTERM.
holds() { grep -qs '^SigBlk:.*[4-7c-f]...$' "/proc/$1/status"; }

# Whether a process that the stand-in started is still running.
left_behind() {
    local pid pids
    read -ra pids <"$DIR/op.pids"
    for pid in "${pids[@]}"; do
        grep -qs '^State:.*[^Z] (' "/proc/$pid/status" && echo "$pid is left behind"
    done
    rm "$DIR/op.pids"
}

# Creates $DIR/bundle as an engine does, with a user, the hook and these annotations: bundle_with_hook KEY=VALUE...
# shellcheck disable=SC2120 # Transcripts pass them.
bundle_with_hook() {
    bundle "$@"
    jq '. + {process: {user: {uid: 1000, gid: 1001}}, root: {path: "rootfs"},
        hooks: {createRuntime: [{path: "/usr/libexec/oci/hooks.d/oci-secrets-hook"}]}}' "$DIR/bundle/config.json" >"$DIR/spec"
    mv "$DIR/spec" "$DIR/bundle/config.json"
}

# Installs a program of this name on the PATH, which prints this text: engine NAME TEXT. Its arguments are in $DIR/NAME.called.
engine() {
    mkdir -p "$DIR/bin"
    printf '%s' "$2" >"$DIR/bin/$1.out"
    printf '#!/bin/sh\necho "$@" >"%s/%s.called"\ncat "%s/bin/%s.out"\n' "$DIR" "$1" "$DIR" "$1" >"$DIR/bin/$1"
    chmod 755 "$DIR/bin/$1"
}

# Creates $DIR/project with this .envrc, allows it in direnv, and installs our direnv library: project LINE...
project() {
    mkdir -p "$DIR/project" "$DIR/for-direnv" "$DIR/config/direnv/lib"
    cp "${BASH_SOURCE[0]%/*}/../../config/direnv/oci-secrets.sh" "$DIR/config/direnv/lib/"
    printf '#!/bin/sh\nexec %s --settings %s "$@"\n' "$(type -P oci-secrets)" "$DIR/settings.toml" >"$DIR/for-direnv/oci-secrets"
    chmod 755 "$DIR/for-direnv/oci-secrets"
    printf '%s\n' "$@" >"$DIR/project/.envrc"
    direnv allow "$DIR/project"
}

direnv() { PATH=$DIR/for-direnv:$PATH HOME=$DIR XDG_CONFIG_HOME=$DIR/config XDG_DATA_HOME=$DIR/data command direnv "$@"; }

# Runs these lines in an interactive shell with direnv's hook and the oci-secrets of `project`: types SHELL LINE...
types() {
    local shell=$1 options
    shift
    case $shell in
    bash) options=(--norc --noprofile --noediting -i) ;;
    *) options=(-f -i -o no_prompt_sp) ;;
    esac
    printf '%s\n' "eval \"\$(direnv hook $shell)\"" "$@" |
        PATH=$DIR/for-direnv:/usr/bin:/bin HOME=$DIR XDG_CONFIG_HOME=$DIR/config XDG_DATA_HOME=$DIR/data PS1='' TERM=dumb \
            "$shell" "${options[@]}" 2>&1 | sed 's/\x1b\[[0-9;]*m//g; /job control\|process group\|^exit$/d'
}

# Prints the error for a file with these lines: refused LINE...
refused() {
    printf '%s\n' "$@" >list
    oci-secrets annotate --format compose list
}

# Renders a template, and says so if the output was written after an error: injected TEMPLATE
injected() {
    # shellcheck disable=SC2059 # Templates have escapes.
    printf "$1" >x.tpl
    oci-secrets inject -i x.tpl -o memory/x
    local code=$?
    [ -e memory/x ] && echo "memory/x is written"
    return $code
}

# Blanks hashes, as the lines of a chain have them.
blank_hash() { sed -E 's/[0-9a-f]{64}/…/'; }

# The environment of a job of GitHub Actions: github COMMAND... $ISSUER overrides the default issuer.
github() {
    ACTIONS_ID_TOKEN_REQUEST_URL="$ISSUERS${ISSUER:-github}/request?api-version=2.0" ACTIONS_ID_TOKEN_REQUEST_TOKEN=$REQUEST_TOKEN "$@"
}

# Prints a token of this issuer with these claims added to the default ones: mint ISSUER CLAIMS
mint() {
    curl -sf -X POST -H 'Content-Type: application/json' -d "{\"claims\": $2}" "${ISSUERS%/}/stand-in/issuers/$1/mint" |
        jq -j .token
}

# Prints some claims of a token.
claims() { jq -cR 'split(".")[1] | @base64d | fromjson | {iss: (.iss | split("/")[-1]), aud, repository, project_path}'; }

# Sets the source of the token in [connect]: token_from TOML
token_from() { settings && sed -i "s|^token-file = .*|token = $1|" settings.toml; }

# Sets faults for the responses of an issuer: fault ISSUER FAULTS
fault() { curl -sf -X POST -H 'Content-Type: application/json' -d "$2" "${ISSUERS%/}/stand-in/issuers/$1/fault"; }

# Seals a canary for a field of AgentVault and stores it: write ITEM [FIELD]
write() { printf canary-secret | oci-secrets seal --kek local-kek:trial --for "op://AgentVault/$1/${2:-password}" --write --overwrite >/dev/null; }

# Prints the number of fields of each item of AgentVault with this title: stored TITLE
stored() {
    curl -sf -H "Authorization: Bearer $TOKEN" "$CONNECT/v1/vaults/$vault/items" | jq -r --arg title "$1" '.[] | select(.title == $title).id' |
        while read -r id; do curl -sf -H "Authorization: Bearer $TOKEN" "$CONNECT/v1/vaults/$vault/items/$id" | jq '.fields | length'; done
}

# Stores a value as the broker does for an outage: bridge REFERENCE TIME
bridge() {
    mkdir -p "$DIR/sealed"
    jq -n --arg reference "$1" --arg fetched "$2" \
        '{schema: 1, source: "https://connect.internal:8443", reference: $reference, item: "abc", item_version: 3,
          fetched: $fetched, fetched_for: "0123456789abcdef", value: "sealed:v1 local-kek:trial AAAA"}' \
        >"$DIR/sealed/$(printf %s "$1" | sha256sum | cut -d' ' -f1).json"
}

# Puts a layer over the host's configuration of engines, for all commands of this transcript: what they write is not the host's.
fresh_engines() (
    umask 022
    mkdir -p "$DIR/layer"
    mount -t tmpfs tmpfs "$DIR/layer"
    local directory
    for directory in /etc /usr/share /usr/libexec; do
        mkdir -p "$DIR/layer/$directory" "$DIR/layer/work$directory"
        mount -t overlay overlay -o "lowerdir=$directory,upperdir=$DIR/layer$directory,workdir=$DIR/layer/work$directory" "$directory"
    done
    rm -rf /etc/containerd /etc/docker /etc/crio /etc/cdi /etc/containers/containers.conf* /usr/share/containers/containers.conf* \
        /usr/share/containers/oci
)

# Installs the hook where engines expect it.
program() { install -D -m 0755 "$(type -P oci-secrets-hook)" /usr/libexec/oci/hooks.d/oci-secrets-hook; }

# Starts a container whose hook asks at $DIR/sock, where a program in Python serves one connection: `s` listens, `c` is accepted.
ask_at() {
    printf '%s\n' '[broker]' "socket = \"$DIR/sock\"" '[deliver]' 'deadline = "1s"' >"$DIR/settings.toml"
    rm -f "$DIR/sock" "$DIR/up"
    python3 -c 'import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind("sock"); s.listen(); open("up", "w"); exec(sys.argv[1])' "$1" >"$DIR/server" 2>&1 &
    while [ ! -e "$DIR/up" ]; do sleep 0.01; done
    local server=$! code
    start run.secrets/x=op://AgentVault/db/password
    code=$?
    kill $server
    return $code
}
