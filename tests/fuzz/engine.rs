//! Runs a property on inputs that are the same each time.
//!
//! bolero's own engine takes a new seed from the kernel for each input: `BOLERO_RANDOM_SEED` only adds one to them. It runs if one of
//! bolero's variables is set, and under a fuzzer, which sets one, too.

use std::env;
use std::fmt::Debug;

use bolero::bolero_engine::input::Bytes;
use bolero::bolero_engine::panic;
use bolero::generator::bolero_generator::driver::Options;
use bolero::{DefaultEngine, Engine, TargetLocation, Test};

/// What a generator reads at most; after it come zeros.
const INPUT_BYTES: usize = 4096;

/// A property of this many inputs.
macro_rules! check {
    ($inputs:expr) => {{
        let location = bolero::TargetLocation {
            package_name: env!("CARGO_PKG_NAME"),
            manifest_dir: env!("CARGO_MANIFEST_DIR"),
            module_path: module_path!(),
            file: file!(),
            line: line!(),
            item_path: bolero::__item_path__!(),
            test_name: None,
        };
        // A fuzzer runs one of the tests.
        if !location.should_run() {
            return;
        }
        bolero::TestTarget::new($crate::engine::Repeatable::new(location, $inputs))
    }};
}
pub(crate) use check;

pub(crate) struct Repeatable {
    bolero: DefaultEngine,
    inputs: u64,
}

impl Repeatable {
    pub(crate) fn new(location: TargetLocation, inputs: u64) -> Repeatable {
        Repeatable { bolero: DefaultEngine::new(location), inputs }
    }
}

impl<T: Test> Engine<T> for Repeatable
where
    T::Value: Debug,
{
    type Output = ();

    fn run(self, mut test: T, options: Options) {
        if env::vars_os().any(|(name, _)| name.to_string_lossy().starts_with("BOLERO_")) {
            return self.bolero.run(test, options);
        }
        // Shrinking makes an input fail many times; only the smallest is printed.
        panic::set_hook();
        panic::forward_panic(false);
        for seed in 0..self.inputs {
            let mut bytes = vec![0; INPUT_BYTES];
            fastrand::Rng::with_seed(seed).fill(&mut bytes);
            let outcome = test.test(&mut Bytes::new(&bytes, &options));
            if let Err(error) = outcome {
                let smallest = test.shrink(bytes, None, &options);
                panic::forward_panic(true);
                match smallest {
                    Some(failure) => panic!("input {seed}: {failure:#}"),
                    None => panic!("input {seed}, once: {error:#}"),
                }
            }
        }
        panic::forward_panic(true);
    }
}
