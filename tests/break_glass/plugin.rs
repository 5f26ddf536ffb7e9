//! Recipients and identities of age's plugins, by a plugin that age itself works with, too.

use std::process::Command;

use super::support::host::run;
use super::{DB, Desk, NOBODY, RECIPIENT, at_terminal};

/// A card, and the way to it, in bech32 with the plugin's name in front; the rest says "a card".
const CARD: &str = "age1pin1vysxxctjvsud8xrc";
const WAY_TO_THE_CARD: &str = "AGE-PLUGIN-PIN-1VYSXXCTJVSQNHLC9\n";

/// Where `age-plugin-pin` is.
const PLUGINS: &str = concat!("/usr/bin:/bin:", env!("CARGO_MANIFEST_DIR"), "/tests/support");

#[test]
fn a_key_on_a_card_opens_what_was_sealed_for_it() {
    let Some(desk) = Desk::new() else { return };
    let (file, way) = (desk.file("for-a-card"), desk.file("way"));
    let seal = |path: &str, recipients: &[&str], more: &[&str]| {
        let mut command = desk.host.program("oci-secrets");
        command.env("PATH", path).args(["break-glass", "seal", "--grants", "agents", "--out", &file]).args(more);
        command.args(recipients.iter().flat_map(|recipient| ["--recipient", recipient]));
        run(&mut command, b"")
    };
    let without = seal("/usr/bin:/bin", &[CARD], &[]);
    let told = String::from_utf8_lossy(&without.stderr);
    assert!(told.contains("cannot find the plugin \"age-plugin-pin\" on the PATH"), "{told}");
    assert_eq!(without.status.code(), Some(78));
    let sealed = seal(PLUGINS, &[CARD, RECIPIENT], &["--threshold", "2"]);
    assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));

    desk.host.write("way", WAY_TO_THE_CARD.as_bytes(), 0o600);
    let arguments = ["break-glass", "open", &file, "--identity", &way, "--identity", &desk.file("key")];
    let arguments = [&arguments[..], &["--operator=ada", "--operator=bob", "--reason=x", "--for=1h", "--yes"]].concat();
    let unplugged = run(desk.host.program("oci-secrets").env("PATH", "/usr/bin:/bin").args(&arguments), b"");
    assert_eq!(unplugged.status.code(), Some(78), "{}", String::from_utf8_lossy(&unplugged.stderr));
    let open = |typed: &str| {
        let program = desk.host.program("oci-secrets");
        let mut words: Vec<&str> = vec![program.get_program().to_str().unwrap()];
        words.extend(program.get_args().map(|word| word.to_str().unwrap()));
        words.extend(&arguments);
        at_terminal(Command::new("script").env("PATH", PLUGINS), &words.join(" "), typed)
    };
    let (code, told) = open("1111\n");
    assert!(code == 77 && told.contains("the PIN is wrong"), "{code}: {told}");
    let (code, told) = open("2410\n");
    assert!(code == 0 && told.contains("touch the card"), "{code}: {told}");
    desk.connect_is(desk.stand_in.connect(), NOBODY);
    assert_eq!(desk.start(&[DB]), (0, vec![format!("{}-db", super::CANARY)]));
    desk.leaves_no_trace();
}
