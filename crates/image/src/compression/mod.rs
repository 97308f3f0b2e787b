//! Compressed streams: detection by magic number, decoders and encoders.
//!
//! The magic numbers, and what counts as an archive for ADD, are those of Docker's archive package (`Detect`,
//! `IsArchivePath`).

mod gzip;
mod read_ahead;

use std::io::{self, BufReader, Chain, Cursor, Read, Write};

pub use gzip::GzipWriter;
pub use read_ahead::ReadAhead;

use crate::layer::LayerReader;

/// A way of compressing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not compressed.
    #[default]
    None,
    /// gzip, perhaps of several members.
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard, perhaps beginning with a skippable frame.
    Zstd,
}

/// How many bytes [`Compression::detect`] wants to see; fewer may be given.
pub const MAGIC_LEN: usize = 10;

impl Compression {
    /// Tells the compression from the first bytes of a stream.
    pub fn detect(head: &[u8]) -> Compression {
        match head {
            [0x42, 0x5a, 0x68, ..] => Compression::Bzip2,
            [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
            [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, _, _, _, _, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

enum Inner<R: Read> {
    Plain(R),
    Gzip(Box<flate2::bufread::MultiGzDecoder<BufReader<R>>>),
    Bzip2(Box<bzip2::bufread::MultiBzDecoder<BufReader<R>>>),
    Xz(Box<lzma_rust2::XzReader<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

type Peeked<R> = Chain<Cursor<Vec<u8>>, R>;

/// Decompresses a stream of any known compression; a stream of none passes through.
pub struct Decoder<R: Read> {
    compression: Compression,
    inner: Inner<Peeked<R>>,
}

impl<R: Read> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("compression", &self.compression).finish_non_exhaustive()
    }
}

const BUFFER: usize = 128 << 10;

impl<R: Read> Decoder<R> {
    /// Reads the first bytes and chooses the decoder.
    ///
    /// # Errors
    /// Those of the reader; a fault in the compressed data shows while reading.
    pub fn new(mut reader: R) -> io::Result<Decoder<R>> {
        let mut head = Vec::with_capacity(MAGIC_LEN);
        reader.by_ref().take(MAGIC_LEN as u64).read_to_end(&mut head)?;
        let compression = Compression::detect(&head);
        let whole = Cursor::new(head).chain(reader);
        let buffered = |whole| BufReader::with_capacity(BUFFER, whole);
        let inner = match compression {
            Compression::None => Inner::Plain(whole),
            Compression::Gzip => Inner::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(buffered(whole)))),
            Compression::Bzip2 => Inner::Bzip2(Box::new(bzip2::bufread::MultiBzDecoder::new(buffered(whole)))),
            Compression::Xz => Inner::Xz(Box::new(lzma_rust2::XzReader::new(buffered(whole), true))),
            Compression::Zstd => Inner::Zstd(Box::new(zstd::stream::read::Decoder::with_buffer(buffered(whole))?)),
        };
        Ok(Decoder { compression, inner })
    }

    /// What was detected.
    pub fn compression(&self) -> Compression {
        self.compression
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::Plain(r) => r.read(buffer),
            Inner::Gzip(r) => r.read(buffer),
            Inner::Bzip2(r) => r.read(buffer),
            Inner::Xz(r) => r.read(buffer),
            Inner::Zstd(r) => r.read(buffer),
        }
    }
}

/// Decompresses whatever `reader` holds.
///
/// # Errors
/// As [`Decoder::new`].
pub fn decoder<R: Read>(reader: R) -> io::Result<Decoder<R>> {
    Decoder::new(reader)
}

/// Whether ADD would unpack the file: a tar with at least one entry, plain or compressed. Any fault means no.
pub fn is_archive(reader: impl Read) -> bool {
    let Ok(decoder) = Decoder::new(reader) else {
        return false;
    };
    // Docker reads one header only; what follows it may still turn out to be corrupt.
    matches!(LayerReader::new(decoder).next_entry(), Ok(Some(_)) | Err(crate::layer::LayerError::Unsupported { .. }))
}

/// How to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EncoderOptions {
    /// Not at all.
    None,
    /// gzip of this level, 1 to 9, with this many threads. The number of threads does not change the output.
    Gzip {
        /// 1 is fastest, 9 smallest.
        level: u32,
        /// At least one.
        threads: usize,
    },
    /// Zstandard of this level, 1 to 22.
    Zstd {
        /// 3 is usual.
        level: i32,
    },
}

impl EncoderOptions {
    /// What comes out.
    pub fn compression(self) -> Compression {
        match self {
            EncoderOptions::None => Compression::None,
            EncoderOptions::Gzip { .. } => Compression::Gzip,
            EncoderOptions::Zstd { .. } => Compression::Zstd,
        }
    }
}

/// Compresses what is written to it.
pub enum Encoder<W: Write> {
    /// Passes bytes on.
    None(W),
    /// gzip.
    Gzip(GzipWriter<W>),
    /// Zstandard.
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write> std::fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Encoder::None(_) => "Encoder::None",
            Encoder::Gzip(_) => "Encoder::Gzip",
            Encoder::Zstd(_) => "Encoder::Zstd",
        })
    }
}

impl<W: Write> Encoder<W> {
    /// Starts a stream.
    ///
    /// # Errors
    /// If the encoder cannot be set up.
    pub fn new(writer: W, options: EncoderOptions) -> io::Result<Encoder<W>> {
        Ok(match options {
            EncoderOptions::None => Encoder::None(writer),
            EncoderOptions::Gzip { level, threads } => Encoder::Gzip(GzipWriter::new(writer, level, threads)),
            EncoderOptions::Zstd { level } => {
                let mut encoder = zstd::stream::write::Encoder::new(writer, level)?;
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
        })
    }

    /// Ends the stream and gives the writer back. Without it the output is truncated.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Encoder::None(w) => Ok(w),
            Encoder::Gzip(w) => w.finish(),
            Encoder::Zstd(w) => w.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::None(w) => w.write(bytes),
            Encoder::Gzip(w) => w.write(bytes),
            Encoder::Zstd(w) => w.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::None(w) => w.flush(),
            Encoder::Gzip(w) => w.flush(),
            Encoder::Zstd(w) => w.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pretty_assertions::assert_eq;

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 0x1234_5678_9abc_def0_u64;
        (0..len)
            .map(|i| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                if i % 3 == 0 { x as u8 } else { b'a' }
            })
            .collect()
    }

    fn compress(data: &[u8], options: EncoderOptions) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new(), options).unwrap();
        for chunk in data.chunks(7919) {
            e.write_all(chunk).unwrap();
        }
        e.finish().unwrap()
    }

    fn decompress(data: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let mut d = Decoder::new(data)?;
        let mut out = Vec::new();
        d.read_to_end(&mut out)?;
        Ok((d.compression(), out))
    }

    #[test]
    fn round_trips() {
        for len in [0, 1, 100, 1 << 20, (1 << 20) + 1, 2_500_000] {
            let data = noise(len);
            for (options, c) in [
                (EncoderOptions::None, Compression::None),
                (EncoderOptions::Gzip { level: 6, threads: 2 }, Compression::Gzip),
                (EncoderOptions::Zstd { level: 3 }, Compression::Zstd),
            ] {
                let (seen, out) = decompress(&compress(&data, options)).unwrap();
                assert_eq!(seen, c);
                assert!(out == data, "{len} {c:?}");
            }
        }
    }

    #[test]
    fn gzip_is_the_same_for_any_number_of_threads_and_truncation_is_seen() {
        let data = noise(3_400_000);
        let one = compress(&data, EncoderOptions::Gzip { level: 1, threads: 1 });
        assert!(one == compress(&data, EncoderOptions::Gzip { level: 1, threads: 5 }));
        assert!(decompress(&one[..one.len() - 1]).is_err());
        assert!(decompress(&one[..one.len() / 2]).is_err());
        // A single member: the plain decoder reads it whole.
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&one[..]).read_to_end(&mut out).unwrap();
        assert!(out == data);
        let mut two = compress(b"ab", EncoderOptions::Gzip { level: 6, threads: 1 });
        two.extend(compress(b"cd", EncoderOptions::Gzip { level: 6, threads: 1 }));
        assert_eq!(decompress(&two).unwrap(), (Compression::Gzip, b"abcd".to_vec()));
    }

    #[test]
    fn foreign_formats() {
        let data = noise(100_000);
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(9));
        bz.write_all(&data).unwrap();
        let bz = bz.finish().unwrap();
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(6)).unwrap();
        xz.write_all(&data).unwrap();
        let xz = xz.finish().unwrap();
        for (bytes, c) in [(bz, Compression::Bzip2), (xz, Compression::Xz)] {
            assert!(decompress(&bytes).unwrap() == (c, data.clone()));
            assert!(decompress(&bytes[..bytes.len() / 2]).is_err(), "{c:?}");
        }
        // A skippable frame first.
        let mut skip = vec![0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9];
        skip.extend(compress(b"x", EncoderOptions::Zstd { level: 1 }));
        assert_eq!(decompress(&skip).unwrap(), (Compression::Zstd, b"x".to_vec()));
    }

    #[test]
    fn archives_for_add() {
        let mut tar = crate::layer::LayerWriter::new(Vec::new());
        let empty = crate::layer::LayerWriter::new(Vec::new()).finish().unwrap();
        let file = crate::layer::Entry::new(&b"a"[..], crate::layer::Kind::File { size: 1 });
        tar.append(&file, &b"x"[..]).unwrap();
        let tar = tar.finish().unwrap();
        assert!(is_archive(&tar[..]));
        assert!(is_archive(&compress(&tar, EncoderOptions::Gzip { level: 6, threads: 1 })[..]));
        assert!(is_archive(&tar[..512]));
        assert!(!is_archive(&empty[..]));
        assert!(!is_archive(&b""[..]));
        assert!(!is_archive(&noise(4096)[..]));
        assert!(!is_archive(&compress(&noise(4096), EncoderOptions::Zstd { level: 1 })[..]));
    }
}
