# shellcheck shell=bash
# oci-secrets for direnv, which loads it from ~/.config/direnv/lib.
#
# Usage: use oci_secrets [--allow-name=NAME]... [FILE]...
#
# The references that FILE declares, by default .envrc itself, become variables with the secrets: fetched at once, unsealed, kept in
# memory, unset when the shell leaves the directory. The call may precede or follow the declarations; the lines after it see the secrets of the
# declarations before it. After a failure the variables are unset, one line says why, and the shell continues; `deadline` in the settings
# limits the wait. When .envrc ends, each variable that still begins with op:// is unset, and one line names them: declare references
# in .envrc, or list the file that does.
#
# No secret's name begins with an underscore, so no secret can overwrite a variable of this file.
use_oci_secrets() {
    # `set -x` would print the secrets.
    local -
    { set +x; } 2>/dev/null
    for _oci_secrets_item; do
        [[ $_oci_secrets_item == -* ]] || watch_file "$_oci_secrets_item"
    done
    # Of its messages, one line.
    if _oci_secrets_item=$({ oci-secrets env --shell direnv "$@" 2>&1 >&4 | head -n 1 >&2; exit "${PIPESTATUS[0]}"; } 4>&1); then
        eval "$_oci_secrets_item"
        _oci_secrets_commands+=$_oci_secrets_item$'\n'
    else
        _oci_secrets_unset
        _oci_secrets_failed=1
    fi
    if [[ -z ${_oci_secrets_trap+set} ]]; then
        # direnv reads the variables in its own trap.
        eval "_oci_secrets_trap=($(trap -p EXIT))"
        trap '_oci_secrets_at_exit "$?"' EXIT
    fi
}

_oci_secrets_at_exit() {
    _oci_secrets_settle || :
    set +e
    (exit "$1")
    eval "${_oci_secrets_trap[2]-}"
}

# Sets each variable to its secret that .envrc has set to its reference again.
_oci_secrets_settle() {
    local -
    { set +x; } 2>/dev/null
    _oci_secrets_again=1
    eval "${_oci_secrets_commands-}"
    _oci_secrets_unset
    if [[ $_oci_secrets_names && ! ${_oci_secrets_failed-} ]]; then
        echo "oci-secrets: error: unset${_oci_secrets_names}: no file of \`use oci_secrets\` declares these references" >&2
    fi
}

# Unsets each variable that holds a reference.
_oci_secrets_unset() {
    _oci_secrets_names=
    while read -r _oci_secrets_item; do
        [[ ${!_oci_secrets_item-} == op://* ]] || continue
        unset -v "$_oci_secrets_item"
        _oci_secrets_names+=" $_oci_secrets_item"
    done < <(compgen -e)
}
