//! The test vectors of age's specification, as the crate `age` contains them.
//!
//! Each is a file and what has to become of it: the payload's SHA-256, or how it fails.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs};

use age::armor::{ArmoredWriter, Format};
use flate2::read::ZlibDecoder;
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::age_error::AgeError;
use super::age_files::decrypt;
use super::ask::Ask;
use super::identity::{Identity, identities};
use crate::hex::hex;

/// Stanzas without their last line, as before version 1: the library reads them, and the header's MAC covers them.
const BEFORE_VERSION_1: [&str; 2] = ["stanza_missing_body", "stanza_missing_final_line"];

#[test]
fn decrypts_what_age_decrypts_and_nothing_else() {
    let (mut decrypted, mut refused) = (0, 0);
    for entry in fs::read_dir(testkit()).unwrap() {
        let path = entry.unwrap().path();
        let Some(vector) = Vector::parse(&fs::read(&path).unwrap()) else { continue };
        let name = path.display();
        match (vector.expected("expect"), decrypt(&vector.armored, &vector.identities)) {
            ("success", Ok(plaintext)) => {
                assert_eq!(hex(digest(&SHA256, &plaintext).as_ref()), vector.expected("payload"), "{name}");
                decrypted += 1;
            }
            ("no match", outcome) => assert!(matches!(outcome, Err(AgeError::NoMatch)), "{name}"),
            // No blank is in front of a block of a sealed file.
            ("success", Err(_)) if path.ends_with("armor_whitespace_outside") => {}
            ("success", Err(error)) => panic!("{name}: {error}"),
            (_, Ok(_)) if BEFORE_VERSION_1.iter().any(|vector| path.ends_with(vector)) => {}
            (expected, Ok(_)) => panic!("{name}: decrypted, expected {expected}"),
            (_, Err(_)) => refused += 1,
        }
    }
    assert!(decrypted > 10 && refused > 50, "{decrypted} were decrypted, {refused} refused");
}

/// The folder in the sources of the crate.
fn testkit() -> PathBuf {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["metadata", "--format-version=1", "--locked", "--offline"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let metadata = String::from_utf8(cargo.output().unwrap().stdout).unwrap();
    // To parse all of it takes seconds.
    let manifests = metadata.split(r#""manifest_path":""#).skip(1).filter_map(|rest| rest.split('"').next());
    let is_age = |path: &&str| {
        let directory = path.rsplit('/').nth(1).and_then(|name| name.strip_prefix("age-"));
        directory.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    };
    PathBuf::from(manifests.into_iter().find(is_age).unwrap()).with_file_name("tests/testdata/testkit")
}

struct Vector {
    header: BTreeMap<String, String>,
    identities: Vec<Identity>,
    armored: String,
}

impl Vector {
    /// `None` for one that is not for identities, or that is not text and says that it is.
    fn parse(content: &[u8]) -> Option<Vector> {
        let end = content.windows(2).position(|pair| pair == b"\n\n")?;
        let lines = str::from_utf8(&content[..end]).unwrap().lines().filter_map(|line| line.split_once(": "));
        let header: BTreeMap<String, String> = lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        // A sealed file is not encrypted with a passphrase.
        if header.contains_key("passphrase") {
            return None;
        }
        let identities = identities(header.get("identity")?.as_bytes(), "identity", Silent).unwrap();
        let mut file = content[end + 2..].to_vec();
        if header.contains_key("compressed") {
            let compressed = std::mem::take(&mut file);
            ZlibDecoder::new(compressed.as_slice()).read_to_end(&mut file).unwrap();
        }
        let armored = match header.contains_key("armored") {
            true => String::from_utf8(file).ok()?,
            false => armored(&file),
        };
        Some(Vector { header, identities, armored })
    }

    fn expected(&self, name: &str) -> &str {
        &self.header[name]
    }
}

fn armored(file: &[u8]) -> String {
    let mut writer = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor).unwrap();
    writer.write_all(file).unwrap();
    String::from_utf8(writer.finish().unwrap()).unwrap()
}

#[derive(Clone)]
struct Silent;

impl Ask for Silent {
    fn passphrase(&self, _: &str) -> Option<Zeroizing<String>> {
        None
    }

    fn line(&self, _: &str) -> Option<String> {
        None
    }

    fn show(&self, _: &str) {}
}
