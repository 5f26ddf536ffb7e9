//! Recipients and identities of age plugins, with a plugin that also works with `age`.

use std::process::Command;

use super::support::host::run;
use super::{DB, RECIPIENT, Site, UNREACHABLE, at_terminal};

/// The recipient and the identity of a card, in Bech32 with the plugin's name; the data is "a card".
const CARD: &str = "age1pin1vysxxctjvsud8xrc";
const CARD_IDENTITY: &str = "AGE-PLUGIN-PIN-1VYSXXCTJVSQNHLC9\n";

/// The PATH with `age-plugin-pin`.
const PLUGINS: &str = concat!("/usr/bin:/bin:", env!("CARGO_MANIFEST_DIR"), "/tests/support");

#[test]
fn a_plugin_identity_opens_a_file_sealed_for_it() {
    let Some(site) = Site::new() else { return };
    let (file, identity) = (site.file("for-a-card"), site.file("identity"));
    let seal = |path: &str, recipients: &[&str], more: &[&str]| {
        let mut command = site.host.program("oci-secrets");
        command.env("PATH", path).args(["break-glass", "seal", "--grants", "agents", "--out", &file]).args(more);
        command.args(recipients.iter().flat_map(|recipient| ["--recipient", recipient]));
        run(&mut command, b"")
    };
    let without = seal("/usr/bin:/bin", &[CARD], &[]);
    let messages = String::from_utf8_lossy(&without.stderr);
    assert!(messages.contains("cannot find the plugin \"age-plugin-pin\" on the PATH"), "{messages}");
    assert_eq!(without.status.code(), Some(78));
    let sealed = seal(PLUGINS, &[CARD, RECIPIENT], &["--threshold", "2"]);
    assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));

    site.host.write("identity", CARD_IDENTITY.as_bytes(), 0o600);
    let arguments = ["break-glass", "open", &file, "--identity", &identity, "--identity", &site.file("key")];
    let arguments = [&arguments[..], &["--operator=ada", "--operator=bob", "--reason=x", "--for=1h", "--yes"]].concat();
    let without_plugin = run(site.host.program("oci-secrets").env("PATH", "/usr/bin:/bin").args(&arguments), b"");
    assert_eq!(without_plugin.status.code(), Some(78), "{}", String::from_utf8_lossy(&without_plugin.stderr));
    let open = |typed: &str| {
        let program = site.host.program("oci-secrets");
        let mut words: Vec<&str> = vec![program.get_program().to_str().unwrap()];
        words.extend(program.get_args().map(|word| word.to_str().unwrap()));
        words.extend(&arguments);
        at_terminal(Command::new("script").env("PATH", PLUGINS), &words.join(" "), typed)
    };
    let (code, text) = open("1111\n");
    assert!(code == 77 && text.contains("the PIN is wrong"), "{code}: {text}");
    let (code, text) = open("2410\n");
    assert!(code == 0 && text.contains("touch the card"), "{code}: {text}");
    site.connect_is(site.stand_in.connect(), UNREACHABLE);
    assert_eq!(site.start(&[DB]), (0, vec![format!("{}-db", super::CANARY)]));
    site.leaves_no_trace();
}
