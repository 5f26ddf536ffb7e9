//! Attacks by the hook's environment variables, working directory and file descriptors.

use std::fs::{self, File, create_dir_all};
use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;

use crate::scene::{Ended, Hook, Scene};
use crate::support::StandIn;
use crate::support::host::Host;
use crate::support::sandbox;
use crate::victim::Victim;

/// A library of the attacker, which writes a byte when it is loaded.
const LIBRARY: &str = r#"
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void load(void) {
    int file = open(LOADED, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    write(file, "x", 1);
    close(file);
}
"#;

/// Libraries that a C library loads at run time.
const LOADED_LATER: [&str; 5] =
    ["libnss_files.so.2", "libnss_dns.so.2", "libnss_compat.so.2", "libresolv.so.2", "libidn2.so.0"];

/// Every round has the image's libraries, certificates and credentials in its environment, and a proxy that listens.
pub(super) fn a_hostile_environment_has_no_effect(scene: &mut Scene) {
    let hostile = tempfile::Builder::new().prefix("hostile").tempdir_in(sandbox::DIRECTORY).unwrap();
    let loaded = hostile.path().join("loaded");
    let library = build_library(hostile.path(), &loaded);
    assert!(Command::new("true").env("LD_PRELOAD", &library).status().unwrap().success());
    assert_eq!(fs::read(&loaded).unwrap(), b"x", "the library is not loaded at all");
    fs::remove_file(&loaded).unwrap();

    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let proxy_url = format!("http://{}", proxy.local_addr().unwrap());
    let tls_directory = hostile.path().join("tls");
    fs::create_dir(&tls_directory).unwrap();
    let tls = StandIn::start(&["--tls", "--dir", tls_directory.to_str().unwrap()]);
    let authority = tls.ca_file().unwrap();
    let variables = |command: &mut Command| {
        let directory = hostile.path();
        for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env(name, &proxy_url);
        }
        for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GOOGLE_APPLICATION_CREDENTIALS"] {
            command.env(name, &authority);
        }
        for name in ["HOME", "TMPDIR", "XDG_CONFIG_HOME", "SSL_CERT_DIR", "GCONV_PATH", "LOCPATH", "LD_LIBRARY_PATH"] {
            command.env(name, directory);
        }
        command.env("LD_PRELOAD", &library).env("LD_DEBUG_OUTPUT", directory.join("debug"));
        command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full").env("OP_CONNECT_HOST", &proxy_url);
        command.env("HOSTALIASES", directory.join("hosts")).env("RES_OPTIONS", "use-vc").env("NO_PROXY", "");
    };
    // By name, which must be resolved.
    let settings = fs::read_to_string(scene.world.host.settings()).unwrap().replace("127.0.0.1", "localhost");
    let settings = write(hostile.path().join("settings.toml"), &settings);
    // A CA certificate that only the environment names is not trusted.
    let of_tls = Host::new(&tls, "");
    let without_authority = fs::read_to_string(of_tls.settings()).unwrap();
    let without_authority: String =
        without_authority.lines().filter(|line| !line.starts_with("ca-file")).map(|line| format!("{line}\n")).collect();
    let tls_settings = write(hostile.path().join("tls.toml"), &without_authority);
    for round in 0..scene.rounds() {
        let victim = Victim::new(|_| ());
        let is_tls = round % 10 == 0;
        let ended = scene.started(&victim, |command| {
            *command = Command::new(command.get_program());
            command.arg("--settings").arg(if is_tls { &tls_settings } else { &settings });
            variables(command);
        });
        assert_eq!(ended.status.code(), Some(if is_tls { 78 } else { 0 }), "{ended:?}");
        scene.judge(&victim, &ended);
    }
    assert_eq!(proxy.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "the proxy was used");
    assert!(!hostile.path().join("debug").exists());
    // A dynamically linked development build uses a loader, which honours LD_PRELOAD once, before the hook executes itself again.
    let allowed = if needs_loader() { scene.rounds() } else { 0 };
    let loads = fs::read(&loaded).map_or(0, |content| content.len());
    assert!(loads <= allowed, "{loads} loads");
}

fn build_library(directory: &Path, loaded: &Path) -> PathBuf {
    let (source, library) = (directory.join("library.c"), directory.join("library.so"));
    fs::write(&source, LIBRARY).unwrap();
    let define = format!("-DLOADED=\"{}\"", loaded.display());
    let gcc = Command::new("gcc").args(["-shared", "-fPIC", "-w", &define, "-o"]).arg(&library).arg(&source).status();
    assert!(gcc.unwrap().success());
    for name in LOADED_LATER {
        fs::copy(&library, directory.join(name)).unwrap();
    }
    library
}

/// Whether the hook is linked dynamically.
fn needs_loader() -> bool {
    let mut head = [0; 4096];
    File::open(env!("CARGO_BIN_EXE_oci-secrets-hook")).unwrap().read_exact(&mut head).unwrap();
    head.windows(7).any(|window| window == b"/ld-lin" || window == b"/ld-mus")
}

fn write(path: PathBuf, content: &str) -> PathBuf {
    fs::write(&path, content).unwrap();
    path
}

/// Some runtimes start hooks with a working directory in the image, which contains files of every relative name.
pub(super) fn a_working_directory_in_the_image_has_no_effect(scene: &mut Scene) {
    let baits = ["settings.toml", "config.json", "token", "ca.pem", "resolv.conf", "libgcc_s.so.1", "libc.so.6"];
    for _ in 0..scene.rounds() {
        let victim = Victim::new(|rootfs| {
            for directory in ["app/etc/oci-secrets", "app/proc/self", "app/run/secrets", "app/keks"] {
                create_dir_all(rootfs.join(directory)).unwrap();
            }
            // The final search of other attacks skips directories with this tag.
            fs::write(rootfs.join("app/CACHEDIR.TAG"), "").unwrap();
            for bait in baits {
                fs::write(rootfs.join("app").join(bait), "bait").unwrap();
                fs::write(rootfs.join("app/etc/oci-secrets").join(bait), "bait").unwrap();
            }
        });
        let directory = victim.rootfs().join("app");
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).unwrap();
        for watched in ["", "etc", "etc/oci-secrets", "proc", "proc/self", "run", "run/secrets", "keks"] {
            inotify::add_watch(&watch, directory.join(watched), WatchFlags::OPEN | WatchFlags::CREATE).unwrap();
        }
        let ended = scene.started(&victim, |command| {
            command.current_dir(&directory);
        });
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(rustix::io::read(&watch, &mut [0; 512]).unwrap_err(), Errno::AGAIN, "something was opened");
        scene.judge(&victim, &ended);
    }
}

/// The hook is started with foreign descriptors, and without any.
pub(super) fn descriptors_leak_in_neither_direction(scene: &mut Scene) {
    let directory = tempfile::Builder::new().prefix("descriptors").tempdir_in(sandbox::DIRECTORY).unwrap();
    let fifo = directory.path().join("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from(0o600), 0).unwrap();
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let mut reader = File::options().read(true).custom_flags(nonblocking).open(&fifo).unwrap();
    let scripts = [
        r#"exec 3</ 4>"$0" 5<"$0" 9</etc; exec "$@""#,
        r#"exec 3</proc 4>"$0" 1>&- 2>&-; exec "$@""#,
        r#"exec 1>&- 2>"$0" 7>"$0"; exec "$@""#,
    ];
    let untouched = Victim::new(|_| ());
    thread::sleep(Duration::from_millis(500));
    let usual = descriptors(&untouched);
    for round in 0..scene.rounds() {
        let victim = Victim::new(|_| ());
        let ended = scene.started(&victim, |command| {
            let mut shell = Command::new("sh");
            shell.args(["-c", scripts[round % scripts.len()]]).arg(&fifo);
            shell.arg(command.get_program()).args(command.get_args()).env_clear().env("PATH", sandbox::PATH);
            *command = shell;
        });
        assert!(ended.status.success(), "{ended:?}");
        // A process that was just started may still load its library.
        let is_left_alone = (0..200).any(|_| {
            thread::sleep(Duration::from_millis(1));
            descriptors(&victim) == usual
        });
        assert!(is_left_alone, "{usual:?} {:?}", descriptors(&victim));
        scene.judge(&victim, &ended);
        // Nothing was written, and no process still has the descriptor: otherwise this would be EAGAIN.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0, "a process still has the descriptor");
    }
}

/// The targets of the container process's descriptors.
fn descriptors(victim: &Victim) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{}/fd", victim.process.id())).unwrap().flatten();
    let mut links: Vec<_> = entries.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    links.sort();
    links
}

impl Scene {
    /// Runs a hook that is started in another way, without checking the outcome.
    fn started(&self, victim: &Victim, change: impl FnOnce(&mut Command)) -> Ended {
        let mut command = self.command();
        change(&mut command);
        let state = victim.state().to_string();
        self.on_host(|| Hook::start(&mut command, state.as_bytes()).end())
    }
}
