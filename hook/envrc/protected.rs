//! The variables that control a shell, a loader or another program.

use super::{EnvrcError, Variable};

/// Names, and why a secret must not be their value. A `*` at the end stands for any rest.
///
/// Otherwise a user who can write an `.envrc` or an item could run code in a shell, or in each program that it starts.
const PROTECTED: &[(&str, &str)] = &[
    (
        "the dynamic loader or a library takes code, data or servers from it",
        "LD_* GLIBC_TUNABLES GCONV_PATH GETCONF_DIR HOSTALIASES LOCALDOMAIN LOCPATH MALLOC_* NIS_PATH NLSPATH OPENSSL_CONF \
         OPENSSL_ENGINES OPENSSL_MODULES RESOLV_HOST_CONF RES_OPTIONS TZDIR",
    ),
    (
        "a shell runs the commands in it, or in the file that it names",
        "BASH_ENV BASH_FUNC_* ENV FCEDIT INPUTRC MAILPATH NULLCMD PROMPT PROMPT2 PROMPT3 PROMPT4 PROMPT_COMMAND PS0 PS1 PS2 PS3 \
         PS4 READNULLCMD RPROMPT RPROMPT2 RPS1 RPS2 SPROMPT ZDOTDIR ZSH ZSH_* fish_*",
    ),
    (
        "a shell finds or splits its commands by it",
        "CDPATH EXECIGNORE FIGNORE FPATH GLOBIGNORE HISTCHARS IFS MODULE_PATH PATH auto_resume histchars",
    ),
    (
        "a shell sets it itself, and can evaluate what is assigned to it",
        "BASH BASHOPTS BASHPID BASH_* COMP_WORDBREAKS DIRSTACK EGID EPOCHREALTIME EPOCHSECONDS EUID FUNCNAME GID GROUPS HISTCMD \
         LINENO OPTIND POSIXLY_CORRECT PPID RANDOM SECONDS SHELLOPTS SHLVL SRANDOM TMOUT UID USERNAME",
    ),
    ("direnv keeps its state in it", "DIRENV_* direnv direnv_*"),
    (
        "programs find their files by it",
        "AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE CURL_HOME DOCKER_CONFIG GIT_CONFIG* GIT_DIR HISTFILE HOME KUBECONFIG TERMCAP \
         TERMINFO TERMINFO_DIRS TMPDIR XDG_*",
    ),
    (
        "an interpreter takes options or code from it",
        "BUNDLE_GEMFILE CLASSPATH GEM_HOME GEM_PATH JAVA_TOOL_OPTIONS JDK_JAVA_OPTIONS JULIA_LOAD_PATH LUA_CPATH* LUA_INIT* \
         LUA_PATH* NODE_OPTIONS NODE_PATH PERL5DB PERL5LIB PERL5OPT PERL5SHELL PERLLIB PHPRC PHP_INI_SCAN_DIR PYTHONBREAKPOINT \
         PYTHONEXECUTABLE PYTHONHOME PYTHONINSPECT PYTHONPATH PYTHONPLATLIBDIR PYTHONPYCACHEPREFIX PYTHONSTARTUP \
         PYTHONUSERBASE PYTHONWARNINGS RUBYLIB RUBYOPT R_ENVIRON* R_PROFILE*",
    ),
    (
        "programs run the command that it names, or take options from it that do",
        "BROWSER COMPILER_PATH EDITOR GCC_EXEC_PREFIX GIT_ASKPASS GIT_EDITOR GIT_EXEC_PATH GIT_EXTERNAL_DIFF GIT_PAGER \
         GIT_PROXY_COMMAND GIT_SEQUENCE_EDITOR GIT_SSH GIT_SSH_COMMAND GIT_TEMPLATE_DIR GOFLAGS LESSCLOSE LESSOPEN MAKEFILES \
         MAKEFLAGS MANPAGER PAGER RSYNC_RSH RUSTC RUSTC_WRAPPER SHELL SSH_ASKPASS SUDO_ASKPASS SUDO_EDITOR SYSTEMD_EDITOR \
         SYSTEMD_PAGER TAR_OPTIONS VISUAL",
    ),
];

/// Checks that no variable controls a shell, a loader or another program, unless its name is allowed.
///
/// # Errors
/// One does.
pub fn check_names(variables: &[Variable], allowed: &[String]) -> Result<(), EnvrcError> {
    let refused = |variable: &&Variable| !allowed.contains(&variable.name) && reason(&variable.name).is_some();
    match variables.iter().find(refused) {
        None => Ok(()),
        Some(variable) => Err(EnvrcError::Protected {
            variable: Box::new(variable.clone()),
            reason: reason(&variable.name).unwrap_or_default(),
        }),
    }
}

fn reason(name: &str) -> Option<&'static str> {
    let matches = |pattern: &str| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    };
    PROTECTED.iter().find(|(_, patterns)| patterns.split(' ').any(matches)).map(|(reason, _)| *reason)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn check(name: &str, allowed: &[&str]) -> Result<(), String> {
        let variable = super::super::argument(&format!("{name}=op://v/i/f")).unwrap();
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        check_names(&[variable], &allowed).map_err(|error| error.to_string())
    }

    #[test]
    fn refuses_names_that_control_programs_unless_they_are_allowed() {
        for name in
            ["LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "PS4", "IFS", "PATH", "BASH_FUNC_ls", "DIRENV_DIFF", "NODE_OPTIONS"]
        {
            assert!(check(name, &[]).is_err(), "{name}");
            assert!(check(name, &["OTHER"]).is_err(), "{name}");
            check(name, &["OTHER", name]).unwrap();
        }
        for name in [
            "API_KEY",
            "PATH_TOKEN",
            "PROMPTLAYER_API_KEY",
            "LD",
            "GIT_TOKEN",
            "PYTHON_TOKEN",
            "USER",
            "assignments",
            "cmd",
        ] {
            check(name, &[]).unwrap();
        }
        let reason =
            "refusing to set ENV (the command line): a shell runs the commands in it, or in the file that it names";
        assert_eq!(check("ENV", &[]).unwrap_err(), reason);
    }

    /// bash evaluates a value that is assigned to one of its integers: `export RANDOM='x[$(command)]'` runs the command.
    #[test]
    fn no_other_variable_of_bash_evaluates_or_changes_a_value() {
        let script = r#"
            for name in $(compgen -v; echo "$@"); do
                seen=$( (eval "export $name='x[\$(echo run >&2)]'"; printenv "$name") 2>&1 )
                [[ $seen == 'x[$(echo run >&2)]' ]] || echo "$name"
            done"#;
        let names = "BASH_COMPAT BASH_XTRACEFD FUNCNAME HISTSIZE LINES MAILCHECK OPTARG REPLY TMOUT";
        // The caller's variables would be listed, too, and bash warns of a locale that does not exist.
        let mut bash = Command::new("bash");
        bash.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let output = bash.args(["--norc", "-c", script, "bash"]).args(names.split(' ')).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert!(output.lines().any(|name| name == "RANDOM"), "{output}");
        // `_` names no file.
        let unprotected: Vec<&str> = output.lines().filter(|name| reason(name).is_none() && *name != "_").collect();
        assert_eq!(unprotected, Vec::<&str>::new());
    }
}
