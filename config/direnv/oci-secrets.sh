# shellcheck shell=bash
# oci-secrets for direnv, which looks for it in ~/.config/direnv/lib.
#
# Usage: use oci_secrets [FILE]
#
# The references in FILE, by default .envrc itself, become variables of the shell with the secrets that they refer to: fetched at
# once, unsealed, kept in memory. Leaving the directory drops them. It may stand before or after the lines with the references; what
# comes after it in .envrc sees the secrets of those before. If they cannot be had, the variables are unset, one line says why, and the
# shell goes on: the settings' `deadline` says after how long.
use_oci_secrets() {
    local file=${1:-.envrc} assignments trap
    watch_file "$file"
    # Of what it says, one line.
    if assignments=$({ oci-secrets env --shell bash -- "$file" 2>&1 >&4 | head -n 1 >&2; exit "${PIPESTATUS[0]}"; } 4>&1); then
        eval "$assignments"
        _oci_secrets_assignments+=$assignments$'\n'
    else
        _oci_secrets_failed=1
    fi
    _oci_secrets_settle
    if [[ -z ${_oci_secrets_trap-} ]]; then
        # Once more when .envrc has ended, before direnv looks at what it has set.
        eval "trap=($(trap -p EXIT))"
        _oci_secrets_trap=${trap[2]-}
        trap '_oci_secrets_at_exit "$?"' EXIT
    fi
}

# What was to be done at the end is done as if nothing had come before it.
_oci_secrets_at_exit() {
    _oci_secrets_settle || :
    set +e
    (exit "$1")
    eval "$_oci_secrets_trap"
}

# No variable stays a reference: it becomes the secret, or is unset if secrets could not be had.
_oci_secrets_settle() {
    local IFS=$' \t\n' name value
    for name in $(compgen -e); do
        [[ ${!name-} == op://* ]] || continue
        value=$(eval "${_oci_secrets_assignments-}"; printf %s. "${!name}")
        value=${value%.}
        if [[ $value != op://* ]]; then
            export "$name=$value"
        elif [[ -n ${_oci_secrets_failed-} ]]; then
            unset "$name"
        fi
    done
}
