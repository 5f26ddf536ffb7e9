//! Tokens and the AES keys in them, through a module.
//!
//! A data key is wrapped as the token allows, AES-GCM first, else AES key wrap with padding (RFC 5649). The number that PKCS#11 gives
//! the mechanism comes first, so that there is one way to open it, whatever other mechanisms the token gets:
//!
//! ```text
//! 00 00 10 87 (CKM_AES_GCM)          | IV (12) | ciphertext | tag (16)
//! 00 00 21 0a (CKM_AES_KEY_WRAP_PAD) | length of the data key (1) | wrapped key
//! ```
//!
//! The length is there because SoftHSM 2.6 gives back the padding, too.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use zeroize::Zeroizing;

use super::call::{call, map_error, map_unwrap_error};
use super::sessions::Sessions;
use super::{Bytes, Job, KeyUri, Pkcs11Error, Request, TokenAnswer};

const IV_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// What AES key wrap pads to.
const WRAP_BLOCK_BYTES: usize = 8;
const KEY_BYTES: u64 = 32;

/// A module, and the sessions with its tokens.
pub(super) struct Module {
    module: Pkcs11,
    sessions: Sessions,
    takes_calls_at_once: bool,
}

impl Module {
    /// Loads and starts the module. Tokens are not looked at yet.
    pub(super) fn load(path: &str, pin: Option<AuthPin>) -> Result<Module, Pkcs11Error> {
        let describe = |error| match error {
            // The loader says which file and why; functions of the module are shown by name.
            Error::LibraryLoading(error) => Pkcs11Error::Module { why: error.to_string() },
            error => Pkcs11Error::Module { why: call(&error) },
        };
        let module = Pkcs11::new(path).map_err(describe)?;
        let start = |flags| module.initialize(CInitializeArgs::new(flags));
        let (started, takes_calls_at_once) = match start(CInitializeFlags::OS_LOCKING_OK) {
            Err(Error::Pkcs11(RvError::CantLock, _)) => (start(CInitializeFlags::empty()), false),
            started => (started, true),
        };
        started.map_err(describe)?;
        Ok(Module { sessions: Sessions::new(module.clone(), pin), module, takes_calls_at_once })
    }

    /// Whether calls may be made at the same time.
    pub(super) fn takes_calls_at_once(&self) -> bool {
        self.takes_calls_at_once
    }

    /// Does what a request asks for.
    pub(super) fn answer(&self, request: &Request) -> Result<TokenAnswer, Pkcs11Error> {
        let slot = self.slot(&request.key)?;
        let mechanisms = self.module.get_mechanism_list(slot).map_err(map_error)?;
        self.sessions.call(slot, |session| {
            if matches!(request.job, Job::Create) {
                return self.create(slot, session, &mechanisms, &request.key);
            }
            let token = Token { session, mechanisms: &mechanisms, key: find(session, &request.key)? };
            match &request.job {
                Job::Wrap(bytes) => token.wrap(bytes).map(TokenAnswer::Bytes),
                Job::Unwrap(bytes) => token.unwrap(bytes).map(TokenAnswer::Bytes),
                _ => Ok(TokenAnswer::Uses {
                    wrap: token.mechanism(true).is_some(),
                    unwrap: token.mechanism(false).is_some(),
                }),
            }
        })
    }

    /// The slot of the token that the URI names.
    fn slot(&self, key: &KeyUri) -> Result<Slot, Pkcs11Error> {
        let slots = self.module.get_slots_with_initialized_token().map_err(map_error)?;
        let mut found = Vec::new();
        for slot in &slots {
            // A token that is pulled out at this moment is none.
            if self.module.get_token_info(*slot).is_ok_and(|info| matches(key, &info)) {
                found.push(*slot);
            }
        }
        match (found.pop(), found.len()) {
            (Some(slot), 0) => Ok(slot),
            (Some(_), others) => Err(Pkcs11Error::ManyTokens { tokens: others + 1 }),
            (None, _) => Err(Pkcs11Error::NoToken { slots: slots.len() }),
        }
    }

    /// Makes a key that never leaves the token, for whichever mechanism the token offers.
    fn create(
        &self,
        slot: Slot,
        session: &Session,
        mechanisms: &[MechanismType],
        key: &KeyUri,
    ) -> Result<TokenAnswer, Pkcs11Error> {
        match find(session, key) {
            Err(Pkcs11Error::NoKey) => {}
            Ok(_) | Err(Pkcs11Error::ManyKeys { .. }) => return Err(Pkcs11Error::Exists),
            Err(map_error) => return Err(map_error),
        }
        let encrypts = mechanisms.contains(&MechanismType::AES_GCM);
        if !encrypts && !mechanisms.contains(&MechanismType::AES_KEY_WRAP_PAD) {
            return Err(Pkcs11Error::NoMechanism);
        }
        let mut template = vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::ValueLen(KEY_BYTES.into()),
            Attribute::Encrypt(encrypts),
            Attribute::Decrypt(encrypts),
            Attribute::Wrap(!encrypts),
            Attribute::Unwrap(!encrypts),
        ];
        template.extend(names(key));
        // The token is logged in to already, by the session that found no such key.
        let writing = self.module.open_rw_session(slot).map_err(map_error)?;
        writing.generate_key(&Mechanism::AesKeyGen, &template).map_err(map_error)?;
        Ok(TokenAnswer::Created)
    }
}

/// A key of a token that is logged in to.
struct Token<'a> {
    session: &'a Session,
    mechanisms: &'a [MechanismType],
    key: ObjectHandle,
}

impl Token<'_> {
    /// The mechanism that token and key allow, to wrap or to unwrap.
    fn mechanism(&self, wrap: bool) -> Option<MechanismType> {
        let uses = match wrap {
            true => [
                (MechanismType::AES_GCM, AttributeType::Encrypt),
                (MechanismType::AES_KEY_WRAP_PAD, AttributeType::Wrap),
            ],
            false => [
                (MechanismType::AES_GCM, AttributeType::Decrypt),
                (MechanismType::AES_KEY_WRAP_PAD, AttributeType::Unwrap),
            ],
        };
        let allowed = |used: AttributeType| {
            let attributes = self.session.get_attributes(self.key, &[used]).unwrap_or_default();
            attributes.iter().any(|attribute| {
                let yes = matches!(
                    attribute,
                    Attribute::Encrypt(true)
                        | Attribute::Decrypt(true)
                        | Attribute::Wrap(true)
                        | Attribute::Unwrap(true)
                );
                yes && attribute.attribute_type() == used
            })
        };
        uses.into_iter().find(|(mechanism, used)| self.mechanisms.contains(mechanism) && allowed(*used)).map(|(m, _)| m)
    }

    fn wrap(&self, bytes: &[u8]) -> Result<Bytes, Pkcs11Error> {
        let mechanism = self.mechanism(true).ok_or(Pkcs11Error::NoMechanism)?;
        let wrapped = if mechanism == MechanismType::AES_GCM { self.encrypt(bytes)? } else { self.wrap_key(bytes)? };
        Ok(Zeroizing::new([&number(mechanism)[..], &wrapped].concat()))
    }

    fn unwrap(&self, wrapped: &[u8]) -> Result<Bytes, Pkcs11Error> {
        let unknown = || Pkcs11Error::NotWrapped { call: "it names no mechanism of ours".into() };
        let (mechanism, body) = wrapped.split_first_chunk().ok_or_else(unknown)?;
        if *mechanism == number(MechanismType::AES_GCM) {
            self.decrypt(body)
        } else if *mechanism == number(MechanismType::AES_KEY_WRAP_PAD) {
            self.unwrap_key(body)
        } else {
            Err(unknown())
        }
    }

    /// AES-GCM. Tokens that choose the IV themselves write theirs over the random one that they are offered.
    fn encrypt(&self, bytes: &[u8]) -> Result<Vec<u8>, Pkcs11Error> {
        let mut iv = [0; IV_BYTES];
        self.session.generate_random_slice(&mut iv).map_err(map_error)?;
        let parameters = GcmParams::new(&mut iv, &[], (TAG_BYTES as u64 * 8).into()).map_err(map_error)?;
        let ciphertext = self.session.encrypt(&Mechanism::AesGcm(parameters), self.key, bytes).map_err(map_error)?;
        Ok([&iv[..], &ciphertext].concat())
    }

    fn decrypt(&self, body: &[u8]) -> Result<Bytes, Pkcs11Error> {
        let (iv, ciphertext) =
            body.split_first_chunk::<IV_BYTES>().filter(|(_, rest)| rest.len() > TAG_BYTES).ok_or_else(cut)?;
        let mut iv = *iv;
        let parameters = GcmParams::new(&mut iv, &[], (TAG_BYTES as u64 * 8).into()).map_err(map_error)?;
        self.session
            .decrypt(&Mechanism::AesGcm(parameters), self.key, ciphertext)
            .map(Zeroizing::new)
            .map_err(map_unwrap_error)
    }

    /// AES key wrap, which wraps objects: the bytes become one for as long as it takes.
    fn wrap_key(&self, bytes: &[u8]) -> Result<Vec<u8>, Pkcs11Error> {
        let mut template = passing();
        template.push(Attribute::Value(bytes.to_vec()));
        let object = self.session.create_object(&template).map_err(map_error)?;
        let wrapped = self.session.wrap_key(&Mechanism::AesKeyWrapPad, self.key, object).map_err(map_error);
        self.session.destroy_object(object).map_err(map_error)?;
        let length =
            u8::try_from(bytes.len()).map_err(|_| Pkcs11Error::Refused { call: "the data key is too long".into() })?;
        Ok([&[length], wrapped?.as_slice()].concat())
    }

    fn unwrap_key(&self, body: &[u8]) -> Result<Bytes, Pkcs11Error> {
        let (length, body) = body.split_first().ok_or_else(cut)?;
        let mechanism = Mechanism::AesKeyWrapPad;
        let object = self.session.unwrap_key(&mechanism, self.key, body, &passing()).map_err(map_unwrap_error)?;
        let value = self.session.get_attributes(object, &[AttributeType::Value]).map_err(map_error);
        self.session.destroy_object(object).map_err(map_error)?;
        let Some(Attribute::Value(bytes)) = value?.pop() else {
            return Err(Pkcs11Error::Refused { call: "the unwrapped key has no value".into() });
        };
        let mut bytes = Zeroizing::new(bytes);
        let padding = bytes.get(usize::from(*length)..).ok_or_else(cut)?;
        if padding.len() >= WRAP_BLOCK_BYTES || padding.iter().any(|byte| *byte != 0) {
            return Err(Pkcs11Error::NotWrapped { call: "its length is another".into() });
        }
        bytes.truncate((*length).into());
        Ok(bytes)
    }
}

/// What a data key is in a token, for a moment: an object of the session, which may be read.
fn passing() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Sensitive(false),
        Attribute::Extractable(true),
    ]
}

fn find(session: &Session, key: &KeyUri) -> Result<ObjectHandle, Pkcs11Error> {
    let mut template = vec![Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::AES)];
    template.extend(names(key));
    let mut found = session.find_objects(&template).map_err(map_error)?;
    match (found.pop(), found.len()) {
        (Some(key), 0) => Ok(key),
        (Some(_), others) => Err(Pkcs11Error::ManyKeys { keys: others + 1 }),
        (None, _) => Err(Pkcs11Error::NoKey),
    }
}

fn names(key: &KeyUri) -> impl Iterator<Item = Attribute> {
    let label = key.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes()));
    label.into_iter().chain(key.id.clone().map(Attribute::Id))
}

fn matches(key: &KeyUri, info: &TokenInfo) -> bool {
    let is = |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
    is(&key.token, info.label())
        && is(&key.manufacturer, info.manufacturer_id())
        && is(&key.model, info.model())
        && is(&key.serial, info.serial_number())
}

fn cut() -> Pkcs11Error {
    Pkcs11Error::NotWrapped { call: "it is cut short".into() }
}

/// A mechanism as the bytes of its number.
fn number(mechanism: MechanismType) -> [u8; 4] {
    u32::try_from(*mechanism).unwrap_or_default().to_be_bytes()
}
