//! Writes valid components with random insides into a folder: `smith FOLDER NUMBER`. The corpus of `load` has some, so that
//! the ordinary tests, which do without wasm-smith, try them too.

use std::path::PathBuf;

/// Largest file: a corpus is small.
const BYTES: usize = 24 << 10;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: smith FOLDER NUMBER";
    let folder = PathBuf::from(arguments.next().expect(usage));
    let number: usize = arguments.next().and_then(|n| n.parse().ok()).expect(usage);
    let (mut state, mut written) = (1_u64, 0);
    while written < number {
        // splitmix64
        let mut byte = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) as u8
        };
        let data: Vec<u8> = (0..4096).map(|_| byte()).collect();
        if let Some(component) = ovhost_fuzz::smith::component(&data).filter(|bytes| bytes.len() <= BYTES) {
            std::fs::write(folder.join(format!("smith_{written:02}.wasm")), component)
                .expect("the folder can be written");
            written += 1;
        }
    }
}
