//! How a failed call of a module becomes an error.

use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

use super::Pkcs11Error;

/// The error of a failed call.
pub(super) fn map_error(error: Error) -> Pkcs11Error {
    use RvError::{
        DeviceError, DeviceRemoved, SessionClosed, SessionHandleInvalid, TokenNotPresent, TokenNotRecognized,
    };
    let call = call(&error);
    match error {
        Error::Pkcs11(
            DeviceError | DeviceRemoved | SessionClosed | SessionHandleInvalid | TokenNotPresent | TokenNotRecognized,
            _,
        ) => Pkcs11Error::Gone { call },
        _ => Pkcs11Error::Refused { call },
    }
}

/// The error of a failed call that decrypts or unwraps. Modules do not agree on the code for a wrong key; SoftHSM returns a general
/// error.
pub(super) fn map_unwrap_error(error: Error) -> Pkcs11Error {
    use RvError as E;
    let call = call(&error);
    match error {
        Error::Pkcs11(
            E::EncryptedDataInvalid
            | E::EncryptedDataLenRange
            | E::DataInvalid
            | E::DataLenRange
            | E::WrappedKeyInvalid
            | E::WrappedKeyLenRange
            | E::GeneralError
            | E::FunctionFailed,
            Function::Decrypt | Function::UnwrapKey,
        )
        // The key that wrapped the value may be used for this, so a key that may not is another key.
        | Error::Pkcs11(E::KeyFunctionNotPermitted, _) => Pkcs11Error::NotWrapped { call },
        error => map_error(error),
    }
}

/// A failed call as PKCS#11 writes it: `C_Login: CKR_PIN_INCORRECT`.
pub(super) fn call(error: &Error) -> String {
    let Error::Pkcs11(code, function) = error else { return error.to_string() };
    let mut name = "CKR".to_owned();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    format!("C_{function:?}: {name}")
}
