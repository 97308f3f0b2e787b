//! Typed messages over a Unix socket: two 32-bit little-endian lengths, then that many bytes of JSON, and that many that
//! come with them as they are.

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Mutex,
};

/// The longest message that is sent or accepted, in bytes, with what comes with it.
pub const MAX_MESSAGE: usize = 64 << 20;

/// Bytes before a message.
const HEADER: usize = 8;

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

/// A message as it is sent, without the bytes that come with it.
fn frame<T: Serialize>(message: &T, bytes: &[u8]) -> Result<Vec<u8>, ChannelError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)?;
    let lengths = [frame.len() - HEADER, bytes.len()];
    let length = lengths[0].saturating_add(lengths[1]);
    if length > MAX_MESSAGE {
        return Err(ChannelError::TooLong { length });
    }
    for (field, length) in frame[..HEADER].chunks_exact_mut(HEADER / 2).zip(lengths) {
        field.copy_from_slice(&(length as u32).to_le_bytes());
    }
    Ok(frame)
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
        self.send_with(message, &[])
    }

    /// Sends one message, and bytes that come with it as they are.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub fn send_with<T: Serialize>(&self, message: &T, bytes: &[u8]) -> Result<(), ChannelError> {
        let frame = frame(message, bytes)?;
        let _guard = self.sending.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.write_both(&frame, bytes).map_err(|source| ChannelError::Io { action: "write", source })
    }

    /// Sends a message that tells that an open file comes, and the file.
    pub(crate) fn send_passing<T: Serialize>(&self, message: &T, fd: BorrowedFd<'_>) -> Result<(), ChannelError> {
        let frame = frame(message, &[])?;
        let failed = |source| ChannelError::Io { action: "write", source };
        let _guard = self.sending.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.write_both(&frame, &[]).map_err(failed)?;
        self.pass(fd).map_err(failed)
    }

    /// Writes two pieces with one call where the socket takes them.
    fn write_both(&self, mut first: &[u8], mut second: &[u8]) -> io::Result<()> {
        while !second.is_empty() {
            let written = match (&self.stream).write_vectored(&[IoSlice::new(first), IoSlice::new(second)]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            second = &second[written.saturating_sub(first.len()).min(second.len())..];
            first = &first[written.min(first.len())..];
        }
        (&self.stream).write_all(first)
    }

    /// Waits for one message; `None` where the other end closed the channel.
    ///
    /// # Errors
    /// Where the socket fails, or what arrives is no message of type `T`.
    pub fn recv<T: DeserializeOwned>(&self) -> Result<Option<T>, ChannelError> {
        Ok(self.recv_with()?.map(|(message, _)| message))
    }

    /// Waits for one message and the bytes that come with it; `None` where the other end closed the channel.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    pub fn recv_with<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<u8>)>, ChannelError> {
        let _guard = self.receiving.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut header = [0; HEADER];
        match self.read_full(&mut header)? {
            0 => return Ok(None),
            HEADER => {}
            _ => return Err(ChannelError::Truncated),
        }
        let (json, bytes) = header.split_at(HEADER / 2);
        let [json, bytes] =
            [json, bytes].map(|field| field.iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte)));
        let length = json.saturating_add(bytes);
        if length > MAX_MESSAGE {
            return Err(ChannelError::TooLong { length });
        }
        let json = self.read_piece(json)?;
        let bytes = self.read_piece(bytes)?;
        Ok(Some((serde_json::from_slice(&json)?, bytes)))
    }

    fn read_piece(&self, length: usize) -> Result<Vec<u8>, ChannelError> {
        let mut piece = Vec::new();
        while piece.len() < length {
            // No more than is usual is reserved on the word of the other end.
            let from = piece.len();
            piece.resize(length.min(from + (1 << 17)), 0);
            if self.read_full(&mut piece[from..])? < piece.len() - from {
                return Err(ChannelError::Truncated);
            }
        }
        Ok(piece)
    }

    /// Sends an open file, between messages.
    pub(crate) fn send_descriptor(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let _guard = self.sending.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.pass(fd)
    }

    fn pass(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let fds = [fd];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&self.stream, &[IoSlice::new(&[0])], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits for an open file that was sent between messages.
    pub(crate) fn recv_descriptor(&self) -> io::Result<OwnedFd> {
        let _guard = self.receiving.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(&self.stream, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        fd.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
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
        a.send_with(&7, b"\xff\n").unwrap();
        assert_eq!(b.recv_with::<u8>().unwrap(), Some((7, b"\xff\n".to_vec())));
        drop(a);
        assert_eq!(b.recv::<u8>().unwrap(), None);
    }

    #[test]
    fn bytes_larger_than_the_socket_holds() {
        let (a, b) = Channel::pair().unwrap();
        let sent: Vec<u8> = (0..5_000_000u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let sender = std::thread::spawn(move || a.send_with(&"x", &sent).unwrap());
        let got = b.recv_with::<String>().unwrap();
        assert!(got == Some(("x".into(), expected)));
        sender.join().unwrap();
    }

    #[test]
    fn lengths_and_ends_are_checked() {
        let (a, b) = Channel::pair().unwrap();
        a.stream().write_all(&[u8::MAX; HEADER]).unwrap();
        assert!(matches!(b.recv::<u8>(), Err(ChannelError::TooLong { .. })));
        a.stream().write_all(&[5, 0, 0, 0, 0, 0, 0, 0, b'1']).unwrap();
        drop(a);
        assert!(matches!(b.recv::<u8>(), Err(ChannelError::Truncated)));
    }
}
