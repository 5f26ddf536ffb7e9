//! The files that a command reads.

use std::path::Path;

use zeroize::Zeroizing;

use crate::break_glass::BreakGlassError;

pub(super) fn read_file(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, BreakGlassError> {
    use std::io::Read as _;
    let mut bytes = Zeroizing::new(Vec::new());
    let read = std::fs::File::open(path).and_then(|file| file.take(bytes_max as u64).read_to_end(&mut bytes));
    match read {
        Ok(_) => Ok(bytes),
        Err(error) => {
            Err(BreakGlassError::File { verb: "read", file: path.display().to_string(), errno: error.into() })
        }
    }
}
