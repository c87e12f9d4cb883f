//! What supervisor and worker say to each other: one byte a message over a socket pair, with
//! descriptors in its wake (`unix(7)`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// The most descriptors in one message.
const MAX_DESCRIPTORS: usize = 4;

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Message {
    /// To the worker: what it serves; carries [`Handover`].
    Handover = b'h',
    /// To the worker: serve now.
    Go = b'g',
    /// To the worker: take care of what an earlier one left, which the kernel will not deliver again,
    /// and serve.
    Recover = b'c',
    /// To the worker: answer everybody who waits, and end.
    Stop = b's',
    /// To the supervisor: the worker was told to end, and revokes tokens first.
    Revoking = b'v',
    /// To the supervisor: the worker has everything and can serve.
    Ready = b'r',
    /// To the supervisor: some view shows an older generation than the newest; rename.
    Rotate = b'o',
}

impl Message {
    fn parse(byte: u8) -> Option<Self> {
        let all = [
            Self::Handover,
            Self::Go,
            Self::Recover,
            Self::Stop,
            Self::Revoking,
            Self::Ready,
            Self::Rotate,
        ];
        all.into_iter().find(|message| *message as u8 == byte)
    }
}

/// What a worker needs to serve.
#[derive(Debug)]
pub struct Handover {
    /// A socket that yields the kernel's INIT, and takes the answer to it.
    pub init: OwnedFd,
    /// The connection.
    pub device: OwnedFd,
    /// The shared state.
    pub state: OwnedFd,
    /// The configuration.
    pub config: OwnedFd,
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// Where the system has no descriptors left.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = pair(SocketType::STREAM)?;
        Ok((Self(ours), theirs))
    }

    /// An end that was handed to this process.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Says something.
    ///
    /// # Errors
    /// `BrokenPipe` when nobody listens any more.
    pub fn send(&self, message: Message) -> io::Result<()> {
        self.send_with(message, &[])
    }

    /// Says something if there is room for it: for what is said again anyway, by somebody who must not
    /// wait.
    pub fn send_if_room(&self, message: Message) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::net::send(&self.0, &[message as u8], flags).ok();
    }

    /// Says something and hands descriptors over.
    ///
    /// # Errors
    /// As [`Channel::send`].
    pub fn send_with(&self, message: Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let byte = [message as u8];
        sendmsg(&self.0, &[IoSlice::new(&byte)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Another holder of the same end.
    ///
    /// # Errors
    /// Where the system has no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Hears the next message; `None` when the other end is gone.
    ///
    /// # Errors
    /// `InvalidData` for a message that is not ours, `WouldBlock` with `wait` unset.
    pub fn receive(&self, wait: bool) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let flags = if wait { flags } else { flags | RecvFlags::DONTWAIT };
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
        let descriptors = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        if received.bytes == 0 {
            return Ok(None);
        }
        let [byte] = byte;
        let message = Message::parse(byte).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Some((message, descriptors)))
    }

    /// Hears [`Message::Handover`], the first thing that a worker is told.
    ///
    /// # Errors
    /// `InvalidData` when something else comes.
    pub fn receive_handover(&self) -> io::Result<Handover> {
        let Some((Message::Handover, descriptors)) = self.receive(true)? else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let [init, device, state, config] = <[OwnedFd; MAX_DESCRIPTORS]>::try_from(descriptors)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(Handover { init, device, state, config })
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A pair of sockets that keep packets apart: a stand-in for the device while INIT is answered.
///
/// # Errors
/// Where the system has no descriptors left.
pub fn packets() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(SocketType::SEQPACKET)
}

fn pair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_brings_its_descriptors() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::new(theirs);
        let pair = packets().unwrap();
        let four = [pair.0.as_fd(), pair.1.as_fd(), pair.0.as_fd(), pair.1.as_fd()];
        ours.send_with(Message::Handover, &four).unwrap();
        ours.send(Message::Go).unwrap();
        let handover = theirs.receive_handover().unwrap();
        rustix::io::write(&handover.init, b"hello").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(rustix::io::read(&handover.device, &mut buffer).unwrap(), 5);
        assert!(
            matches!(theirs.receive(false).unwrap(), Some((Message::Go, none)) if none.is_empty())
        );
        assert_eq!(theirs.receive(false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert!(theirs.receive(true).unwrap().is_none(), "the other end is gone");
        assert!(theirs.send(Message::Ready).is_err());
    }
}
