//! Typed messages over a Unix socket: a 32-bit little-endian length, then that many bytes of JSON.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Mutex,
};

/// The longest message that is sent or accepted, in bytes.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The socket could not be read or written.
    #[error("cannot {action} the channel to the worker")]
    Io {
        /// What was tried: `read` or `write`.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The other end is gone, though a message had begun.
    #[error("the channel to the worker ended within a message")]
    Truncated,
    /// A message is longer than [`MAX_MESSAGE`].
    #[error("a message of {length} bytes is over the limit of {MAX_MESSAGE}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A message is not what the receiver expects.
    #[error("cannot encode or decode a message")]
    Json(#[from] serde_json::Error),
}

/// One end of a connection between two processes; shared by reference between threads.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    sending: Mutex<()>,
    receiving: Mutex<()>,
}

impl Channel {
    /// Makes a channel of a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, sending: Mutex::new(()), receiving: Mutex::new(()) }
    }

    /// Makes two connected channels.
    ///
    /// # Errors
    /// The kernel's, where no socket can be made.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = UnixStream::pair()?;
        Ok((Self::new(a), Self::new(b)))
    }

    /// Sends one message; messages of several threads do not mix.
    ///
    /// # Errors
    /// Where the message cannot be encoded or is too long, or the other end is gone.
    pub fn send<T: Serialize>(&self, message: &T) -> Result<(), ChannelError> {
        let mut frame = vec![0; 4];
        serde_json::to_writer(&mut frame, message)?;
        let length = frame.len() - 4;
        if length > MAX_MESSAGE {
            return Err(ChannelError::TooLong { length });
        }
        frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
        let _guard = self.sending.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        (&self.stream).write_all(&frame).map_err(|source| ChannelError::Io { action: "write", source })
    }

    /// Waits for one message; `None` where the other end closed the channel.
    ///
    /// # Errors
    /// Where the socket fails, or what arrives is no message of type `T`.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<T>, ChannelError> {
        let _guard = self.receiving.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut header = [0; 4];
        match self.read_full(&mut header)? {
            0 => return Ok(None),
            4 => {}
            _ => return Err(ChannelError::Truncated),
        }
        let length = u32::from_le_bytes(header) as usize;
        if length > MAX_MESSAGE {
            return Err(ChannelError::TooLong { length });
        }
        let mut body = Vec::new();
        let read = (&self.stream)
            .take(length as u64)
            .read_to_end(&mut body)
            .map_err(|source| ChannelError::Io { action: "read", source })?;
        if read < length {
            return Err(ChannelError::Truncated);
        }
        Ok(Some(serde_json::from_slice(&body)?))
    }

    /// Ends the connection: both sides then receive `None`.
    ///
    /// # Errors
    /// The kernel's; a connection that has ended already is no error.
    pub fn shutdown(&self) -> io::Result<()> {
        match self.stream.shutdown(std::net::Shutdown::Both) {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }

    /// The socket itself.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    fn read_full(&self, buffer: &mut [u8]) -> Result<usize, ChannelError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match (&self.stream).read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A peer that dies with unread data of ours resets the connection: for the reader that is its end.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(source) => {
                    return Err(ChannelError::Io { action: "read", source });
                }
            }
        }
        Ok(filled)
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(fd: OwnedFd) -> Self {
        Self::new(UnixStream::from(fd))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bounds() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&("one", 1)).unwrap();
        a.send(&vec![2u8; 3]).unwrap();
        assert_eq!(b.recv::<(String, i32)>().unwrap(), Some(("one".into(), 1)));
        assert_eq!(b.recv::<Vec<u8>>().unwrap(), Some(vec![2, 2, 2]));
        drop(a);
        assert_eq!(b.recv::<u8>().unwrap(), None);
    }

    #[test]
    fn lengths_and_ends_are_checked() {
        let (a, b) = Channel::pair().unwrap();
        a.stream().write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(b.recv::<u8>(), Err(ChannelError::TooLong { .. })));
        a.stream().write_all(&[5, 0, 0, 0, b'1']).unwrap();
        drop(a);
        assert!(matches!(b.recv::<u8>(), Err(ChannelError::Truncated)));
    }
}
