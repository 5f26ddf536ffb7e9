//! Encrypting one age file to recipients, and decrypting it with identities.

use std::io::{Read as _, Write as _};

use age::armor::{ArmoredReader, ArmoredWriter, Format};
use age::{Decryptor, EncryptError, Encryptor};
use zeroize::Zeroizing;

use super::age_error::AgeError;
use super::identity::Identity;
use super::recipient::Recipient;

/// Encrypts to all of these recipients, with ASCII armor.
pub(super) fn encrypt<'a>(
    plaintext: &[u8],
    recipients: impl Iterator<Item = &'a Recipient>,
) -> Result<String, AgeError> {
    let encryptor = Encryptor::with_recipients(recipients.map(Recipient::as_age))?;
    let encode = || -> std::io::Result<Vec<u8>> {
        let armored = ArmoredWriter::wrap_output(Vec::new(), Format::AsciiArmor)?;
        let mut writer = encryptor.wrap_output(armored)?;
        writer.write_all(plaintext)?;
        writer.finish()?.finish()
    };
    let bytes = encode().map_err(EncryptError::Io)?;
    String::from_utf8(bytes).map_err(|_| AgeError::Damaged)
}

/// Decrypts with any of these identities.
pub(super) fn decrypt(armored: &str, identities: &[Identity]) -> Result<Zeroizing<Vec<u8>>, AgeError> {
    let decryptor = Decryptor::new(ArmoredReader::new(armored.as_bytes()))?;
    let mut reader = decryptor.decrypt(identities.iter().map(Identity::as_age))?;
    let mut plaintext = Zeroizing::new(Vec::with_capacity(armored.len()));
    reader.read_to_end(&mut plaintext).map_err(|_| AgeError::Damaged)?;
    Ok(plaintext)
}
