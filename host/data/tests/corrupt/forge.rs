//! Tar files and pictures by hand, right or wrong in any way. Also compiled into the whole-program tests.

use std::io::Cursor;

/// Bytes of a tar header.
pub const BLOCK: usize = 512;

/// A tar in the making.
#[derive(Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    /// A plain file.
    pub fn file(self, name: impl AsRef<[u8]>, content: &[u8]) -> Tar {
        self.member(b'0', name, content)
    }

    /// A member of any type.
    pub fn member(self, kind: u8, name: impl AsRef<[u8]>, content: &[u8]) -> Tar {
        self.header(name, content.len() as u64, |header| header[156] = kind).content(content)
    }

    /// A header alone, changed by `edit` before its sum is made.
    pub fn header(mut self, name: impl AsRef<[u8]>, size: u64, edit: impl FnOnce(&mut [u8])) -> Tar {
        let mut header = [0; BLOCK];
        let name = name.as_ref();
        header[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header[100..108].copy_from_slice(b"0000644\0");
        header[108..116].copy_from_slice(b"0000000\0");
        header[116..124].copy_from_slice(b"0000000\0");
        if size < 1 << 33 {
            header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        } else {
            header[124] = 0x80;
            header[128..136].copy_from_slice(&size.to_be_bytes());
        }
        header[136..148].copy_from_slice(b"00000000000\0");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        edit(&mut header);
        sum(&mut header);
        self.0.extend(header);
        self
    }

    /// Content, filled up to whole blocks.
    pub fn content(mut self, content: &[u8]) -> Tar {
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// A GNU long name for the member that follows.
    pub fn long_name(self, name: &[u8]) -> Tar {
        let content = [name, b"\0"].concat();
        self.gnu(b'L', "././@LongLink", content.len() as u64, |_| ()).content(&content)
    }

    /// A header in GNU's form.
    pub fn gnu(self, kind: u8, name: &str, size: u64, edit: impl FnOnce(&mut [u8])) -> Tar {
        self.header(name, size, |header| {
            header[156] = kind;
            header[257..265].copy_from_slice(b"ustar  \0");
            edit(header);
        })
    }

    /// PAX records for the member that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut content = Vec::new();
        for (key, value) in records {
            // The length counts its own digits.
            let rest = key.len() + value.len() + 3;
            let length = (1..8).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).unwrap();
            content.extend(format!("{length} {key}=").into_bytes());
            content.extend(*value);
            content.push(b'\n');
        }
        self.member(b'x', "PaxHeaders/x", &content)
    }

    /// With the end mark.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

/// Makes a header's sum right.
pub fn sum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// A question about a picture, as JSON.
pub fn question() -> Vec<u8> {
    br#"{"question": "what colour is it?", "answer": "red"}"#.to_vec()
}

/// A small PNG.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    encode(image::DynamicImage::ImageRgb8(image::RgbImage::from_pixel(width, height, image::Rgb([200, 20, 20]))))
}

/// A picture as PNG.
pub fn encode(picture: image::DynamicImage) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, image::ImageFormat::Png).unwrap();
    out.into_inner()
}

/// A shard of `keys`, each with a question and a picture.
pub fn shard(keys: &[&str]) -> Vec<u8> {
    let all = keys.iter().fold(Tar::default(), |tar, key| {
        tar.file(format!("{key}.json"), &question()).file(format!("{key}.png"), &png(16, 16))
    });
    all.end()
}

/// A tar of every kind of trouble, its name and the keys that are in it. Every key must come out, kept or rejected, unless it
/// lies behind damage.
pub fn troubles() -> Vec<(&'static str, Vec<u8>, Vec<String>)> {
    let (json, png) = (question(), png(16, 16));
    let good = |tar: Tar, key: &str| tar.file(format!("{key}.json"), &question()).file(format!("{key}.png"), &png);
    let first = || good(Tar::default(), "first");
    let last = |tar: Tar| good(tar, "last").end();
    let long = format!("{}/{}", "d".repeat(150), "k".repeat(150));
    let sparse = |offsets: &[(u64, u64)], stored: u64, real: u64| {
        first().gnu(b'S', "odd.png", stored, |header| {
            for (i, (offset, length)) in offsets.iter().enumerate() {
                let at = 386 + 24 * i;
                header[at..at + 12].copy_from_slice(format!("{offset:011o}\0").as_bytes());
                header[at + 12..at + 24].copy_from_slice(format!("{length:011o}\0").as_bytes());
            }
            header[483..495].copy_from_slice(format!("{real:011o}\0").as_bytes());
        })
    };
    let size = |bytes: [u8; 12]| first().header("odd.png", 0, move |header| header[124..136].copy_from_slice(&bytes));
    let mut negative = [0xff; 12];
    negative[11] = 0x80;
    let mut huge = [0; 12];
    (huge[0], huge[4]) = (0x80, 0x7f);
    let mut all = vec![
        ("symbolic-link", last(first().header("odd.png", 0, |h| (h[156], h[157]) = (b'2', b'x')))),
        ("hard-link", last(first().header("odd.png", 0, |h| (h[156], h[157]) = (b'1', b'x')))),
        ("device", last(first().member(b'3', "odd.png", b""))),
        ("unknown-type", last(first().member(b'Q', "odd.png", &png))),
        ("not-utf8", last(first().file(b"odd.json", &json).file(b"odd.\xff\xfe.png", &png))),
        ("key-not-utf8", last(first().file(b"\xffodd.json", &json))),
        ("control-characters", last(first().file(b"o\x1b[31md\x01d.json", &json))),
        ("twice", last(first().file("odd.json", &json).file("odd.json", &json))),
        ("apart", last(first().file("odd.json", &json).file("between.json", &json).file("odd.png", &png))),
        ("parent", last(first().file("../../odd.json", &json))),
        ("absolute", last(first().file("/etc/odd.json", &json))),
        ("folder", last(first().member(b'5', "odd.json/", b"").file("odd.json", &json))),
        ("contiguous", last(first().member(b'7', "odd.json", &json))),
        ("gnu-long-name", last(first().long_name(format!("{long}.json").as_bytes()).file("odd", &json))),
        ("pax-long-name", last(first().pax(&[("path", format!("{long}.json").as_bytes())]).file("odd", &json))),
        ("pax-damaged", last(first().member(b'x', "x", b"999 path=odd.json\n").file("o".repeat(95) + ".json", &json))),
        ("pax-sparse", last(first().pax(&[("GNU.sparse.major", b"1")]).file("GNUSparseFile.0/odd.png", &png))),
        ("pax-size", last(first().pax(&[("size", b"9223372036854775807")]).file("odd.png", &png))),
        ("two-long-names", last(first().long_name(b"odd.json").long_name(b"odd.png").file("odd", &json))),
        ("long-name-without-member", first().long_name(b"odd.json").end()),
        ("sparse", last(sparse(&[(0, 512), (4096, 512)], 1024, 4608).content(&[1; 1024]))),
        ("sparse-cut", sparse(&[(0, 512), (4096, 1 << 30)], (1 << 30) + 512, 4096 + (1 << 30)).end()),
        ("sparse-overlapping", last(sparse(&[(4096, 512), (0, 512)], 1024, 4608).content(&[1; 1024]))),
        ("sparse-tebibytes", last(sparse(&[(1 << 32, 512)], 512, (1 << 32) + 512).content(&[1; 512]))),
        ("size-negative", last(size(negative))),
        ("size-8-eib", last(size(huge))),
        ("size-no-number", last(size(*b"hello world\0"))),
        ("size-beyond-the-end", last(size(*b"00100000000\0"))),
        ("hole", {
            let mut bytes = last(good(first(), "odd"));
            let header = first().0.len();
            bytes[header..header + BLOCK].fill(0);
            bytes
        }),
        ("two-archives", [good(first(), "odd").end(), last(Tar::default())].concat()),
        ("long-tail", {
            let mut bytes = last(good(first(), "odd"));
            bytes.resize(bytes.len() + (2 << 20), 0);
            bytes
        }),
        ("padded", {
            let mut bytes = last(good(first(), "odd"));
            bytes.resize(bytes.len().next_multiple_of(10_240), 0);
            bytes
        }),
        ("empty-file", Vec::new()),
        ("no-samples", Tar::default().end()),
        ("no-end", good(first(), "last").0),
        ("text", b"this is no tar file at all, only some words of text".repeat(20)),
        (
            "many-parts",
            last((0..2_000).fold(first().file("odd.json", &json), |tar, i| tar.file(format!("odd.{i}.cls"), b""))),
        ),
    ];
    let mut out = Vec::new();
    for (name, bytes) in all.drain(..) {
        let mut keys = vec!["first".to_owned(), "last".to_owned()];
        keys.extend(match name {
            "key-not-utf8" => vec!["\u{fffd}odd".into()],
            "control-characters" => vec!["o\x1b[31md\x01d".into()],
            "apart" => vec!["odd".into(), "between".into(), "odd".into()],
            "parent" => vec!["../../odd".into()],
            "absolute" => vec!["/etc/odd".into()],
            "gnu-long-name" | "pax-long-name" => vec![long.clone()],
            "pax-damaged" => vec!["o".repeat(95)],
            "pax-sparse" => vec!["GNUSparseFile.0/odd".into()],
            "long-name-without-member" | "no-end" => vec![],
            _ => vec!["odd".into()],
        });
        if matches!(name, "empty-file" | "no-samples" | "text") {
            keys.clear();
        }
        if name == "sparse-cut" || name == "long-name-without-member" {
            keys.retain(|key| key != "last");
        }
        out.push((name, bytes, keys));
    }
    out
}
