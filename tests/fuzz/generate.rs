//! Inputs near valid ones.
//!
//! Random bytes do not get past the first check of a parser. These generators start from a valid document, or build one of the words
//! that matter to the parser, and then break it in a few places.

use bolero::ValueGenerator;
use bolero::generator::bolero_generator::driver::Driver;
use serde_json::{Map, Value};

/// How many changes a seed gets at most.
const EDITS_MAX: usize = 6;

/// A seed with some changes.
#[derive(Clone)]
pub(crate) struct Near {
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

/// Bytes near one of these seeds. Changes insert these words.
pub(crate) fn near<S: AsRef<[u8]>>(seeds: &[S], words: &[&str]) -> Near {
    let bytes = |text: &S| text.as_ref().to_vec();
    Near {
        seeds: seeds.iter().map(bytes).collect(),
        words: words.iter().map(|word| word.as_bytes().to_vec()).collect(),
    }
}

/// Text near one of these seeds.
pub(crate) fn near_text<S: AsRef<[u8]>>(seeds: &[S], words: &[&str]) -> impl ValueGenerator<Output = String> + use<S> {
    near(seeds, words).map_gen(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

impl ValueGenerator for Near {
    type Output = Vec<u8>;

    fn generate<D: Driver>(&self, driver: &mut D) -> Option<Vec<u8>> {
        let mut bytes = pick(driver, &self.seeds)?.clone();
        for _ in 0..up_to(driver, EDITS_MAX)? {
            self.edit(driver, &mut bytes)?;
        }
        Some(bytes)
    }
}

impl Near {
    fn edit<D: Driver>(&self, driver: &mut D, bytes: &mut Vec<u8>) -> Option<()> {
        let (begin, end) = span(driver, bytes)?;
        let replacement = match up_to(driver, 7)? {
            0 => Vec::new(),
            1 => vec![driver.produce()?],
            2 => vec![driver.produce::<u8>()?.clamp(b' ', b'~')],
            3 => driver.produce::<char>()?.to_string().into_bytes(),
            4 => bytes[begin..end].repeat(2),
            5 => {
                let other = pick(driver, &self.seeds)?;
                let begin = up_to(driver, other.len())?;
                other[begin..(begin + up_to(driver, 40)?).min(other.len())].to_vec()
            }
            _ if self.words.is_empty() => return Some(()),
            _ => pick(driver, &self.words)?.clone(),
        };
        bytes.splice(begin..end, replacement);
        Some(())
    }
}

/// What an edit replaces: often nothing, so that it inserts, and often from and to where something ends, where parsers decide.
fn span<D: Driver>(driver: &mut D, bytes: &[u8]) -> Option<(usize, usize)> {
    let after_word = |from: usize| {
        let word = bytes[from..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        (from + word + 1).min(bytes.len())
    };
    let anywhere = up_to(driver, bytes.len())?;
    let begin = match up_to(driver, 7)? {
        0 => bytes.len(),
        1..4 => anywhere,
        _ => after_word(anywhere),
    };
    let end = match up_to(driver, 3)? {
        0 | 1 => begin,
        2 => after_word(begin),
        _ => begin + up_to(driver, (bytes.len() - begin).min(16))?,
    };
    Some((begin, end))
}

/// A number from 0 to this one.
pub(crate) fn up_to<D: Driver>(driver: &mut D, max: usize) -> Option<usize> {
    (0..=max).generate(driver)
}

/// Whether a choice falls, which it does once in so many times.
pub(crate) fn once_in<D: Driver>(driver: &mut D, times: usize) -> Option<bool> {
    Some(up_to(driver, times - 1)? == 0)
}

/// One of these.
pub(crate) fn pick<'a, D: Driver, T>(driver: &mut D, from: &'a [T]) -> Option<&'a T> {
    let index = up_to(driver, from.len() - 1)?;
    from.get(index)
}

/// A list of up to so many.
pub(crate) fn list<D: Driver, T>(
    driver: &mut D,
    max: usize,
    mut one: impl FnMut(&mut D) -> Option<T>,
) -> Option<Vec<T>> {
    (0..up_to(driver, max)?).map(|_| one(driver)).collect()
}

/// A JSON value that is not what is expected.
pub(crate) fn odd<D: Driver>(driver: &mut D) -> Option<Value> {
    let odd = [
        Value::Null,
        Value::Bool(true),
        Value::from(-1),
        Value::from(1.5),
        Value::from(u64::MAX),
        Value::from(""),
        Value::from("\u{0}"),
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!([[["a"], { "id": "a" }]]),
        serde_json::json!({ "id": { "id": "a" } }),
    ];
    pick(driver, &odd).cloned()
}

/// Sets a member to one of these texts; sometimes to something else, and sometimes not at all.
pub(crate) fn set<D: Driver>(
    driver: &mut D,
    object: &mut Map<String, Value>,
    member: &str,
    texts: &[&str],
) -> Option<()> {
    let value = match up_to(driver, 15)? {
        0 => return Some(()),
        1 => odd(driver)?,
        _ => Value::from(*pick(driver, texts)?),
    };
    object.insert(member.to_owned(), value);
    Some(())
}

/// How many names the objects of a document have.
pub(crate) fn count_names(value: &Value) -> usize {
    match value {
        Value::Array(members) => members.iter().map(count_names).sum(),
        Value::Object(members) => members.len() + members.values().map(count_names).sum::<usize>(),
        _ => 0,
    }
}

/// How many are written in its text: a colon outside of a string follows each.
pub(crate) fn names_in(text: &[u8]) -> usize {
    let (mut names, mut in_string, mut escaped) = (0, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b':' if !in_string => names += 1,
            _ => {}
        }
    }
    names
}
