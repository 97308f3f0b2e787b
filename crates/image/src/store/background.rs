//! Hashing and writing a file beside the thread that makes its content.

use std::fs::File;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use crate::digest::{Digest, Hasher};

/// Bytes handed on at once.
const CHUNK: usize = 256 << 10;

/// Chunks on the way at most, so that memory stays flat.
const CHUNKS: usize = 8;

/// Writes a file and computes its SHA-256. Up to one chunk stays in memory until the end; with the second, two threads
/// start, one that hashes and one that writes, so that either costs only what the other does not hide.
#[derive(Debug)]
pub(super) struct HashedFile {
    file: Option<File>,
    buffer: Vec<u8>,
    size: u64,
    threads: Option<Threads>,
}

#[derive(Debug)]
struct Threads {
    filled: Option<SyncSender<Vec<u8>>>,
    used: Receiver<Vec<u8>>,
    /// Buffers not made yet.
    spare: usize,
    hashing: Option<JoinHandle<Digest>>,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl HashedFile {
    /// Takes an empty file.
    pub(super) fn new(file: File) -> HashedFile {
        HashedFile { file: Some(file), buffer: Vec::new(), size: 0, threads: None }
    }

    /// Bytes written so far.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Writes all that is left, and gives digest and size.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        match self.threads.take() {
            None => {
                if let Some(mut file) = self.file.take() {
                    file.write_all(&self.buffer)?;
                }
                Ok((Digest::of(&self.buffer), self.size))
            }
            Some(mut threads) => {
                let last = std::mem::take(&mut self.buffer);
                threads.pass(last)?;
                Ok((threads.end()?, self.size))
            }
        }
    }

    /// Hands the full buffer on and takes an empty one.
    fn pass(&mut self) -> io::Result<()> {
        let threads = match &mut self.threads {
            Some(threads) => threads,
            None => {
                let file = self.file.take().ok_or(io::ErrorKind::BrokenPipe)?;
                self.threads.insert(Threads::start(file)?)
            }
        };
        let next = threads.empty()?;
        threads.pass(std::mem::replace(&mut self.buffer, next))
    }
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= CHUNK {
            self.pass()?;
        }
        let room = CHUNK - self.buffer.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.buffer.extend_from_slice(taken);
        self.size += taken.len() as u64;
        Ok(taken.len())
    }

    /// What is kept is written at the end; nobody sees the file before.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Threads {
    fn start(mut file: File) -> io::Result<Threads> {
        let (filled, to_hash) = sync_channel::<Vec<u8>>(CHUNKS);
        let (hashed, to_write) = sync_channel::<Vec<u8>>(CHUNKS);
        let (done, used): (Sender<Vec<u8>>, _) = channel();
        let hashing = std::thread::Builder::new().name("hash".to_owned()).spawn(move || {
            let mut hasher = Hasher::sha256();
            for chunk in to_hash {
                hasher.update(&chunk);
                // Once the writer has failed, nobody asks for the digest.
                if hashed.send(chunk).is_err() {
                    break;
                }
            }
            hasher.finish()
        })?;
        let writing = std::thread::Builder::new().name("write".to_owned()).spawn(move || {
            for mut chunk in to_write {
                file.write_all(&chunk)?;
                chunk.clear();
                // At the end nobody wants the buffers back.
                let _ = done.send(chunk);
            }
            Ok(())
        })?;
        Ok(Threads { filled: Some(filled), used, spare: CHUNKS, hashing: Some(hashing), writing: Some(writing) })
    }

    fn empty(&mut self) -> io::Result<Vec<u8>> {
        if let Ok(buffer) = self.used.try_recv() {
            return Ok(buffer);
        }
        if self.spare > 0 {
            self.spare -= 1;
            return Ok(Vec::with_capacity(CHUNK));
        }
        match self.used.recv() {
            Ok(buffer) => Ok(buffer),
            Err(_) => Err(self.failure()),
        }
    }

    fn pass(&mut self, chunk: Vec<u8>) -> io::Result<()> {
        let sent = self.filled.as_ref().is_some_and(|to| to.send(chunk).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }

    fn end(&mut self) -> io::Result<Digest> {
        self.filled = None;
        self.written()?;
        let hashing = self.hashing.take().and_then(|thread| thread.join().ok());
        hashing.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Why a thread has stopped.
    fn failure(&mut self) -> io::Error {
        self.filled = None;
        self.written().err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn written(&mut self) -> io::Result<()> {
        match self.writing.take().map(JoinHandle::join) {
            Some(Ok(written)) => written,
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl Drop for Threads {
    /// A file given up must not be written to any longer.
    fn drop(&mut self) {
        self.filled = None;
        let _ = self.hashing.take().map(JoinHandle::join);
        let _ = self.writing.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_is_told_with_its_cause() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut file = HashedFile::new(full);
        let chunk = vec![1; CHUNK];
        let failed = (0..100).find_map(|_| file.write_all(&chunk).err());
        let error = failed.unwrap_or_else(|| file.finish().unwrap_err());
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_small_file_that_fails_is_told_at_the_end() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut file = HashedFile::new(full);
        file.write_all(b"x").unwrap();
        assert_eq!(file.finish().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
