//! From the bytes of a lane's stream to frames.

use bytes::{Buf as _, Bytes, BytesMut};
use quinn::{ReadError, ReadExactError, RecvStream};

use super::lanes::{HEADER_BYTES, Lane};
use super::link::{Inner, Receive};
use crate::limits::MAX_FRAME_BYTES;

/// What a lane ended with, other than the end of the link.
pub(super) enum Fault {
    /// The link is closed; that has a reason of its own.
    Lost,
    /// The peer broke the rules: the link is to be closed with this reason.
    Rules(String),
}

impl From<ReadError> for Fault {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(_) => Self::Lost,
            other => Self::Rules(format!("a lane ended within its stream: {other}")),
        }
    }
}

impl From<ReadExactError> for Fault {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::ReadError(error) => error.into(),
            ReadExactError::FinishedEarly(_) => Self::Rules("a lane ended within a frame".into()),
        }
    }
}

/// Reads the byte that says which lane a stream is.
pub(super) async fn lane(stream: &mut RecvStream) -> Result<Lane, Fault> {
    let mut tag = [0];
    stream.read_exact(&mut tag).await?;
    Lane::from_tag(tag[0]).ok_or_else(|| {
        Fault::Rules(format!("a stream starts with {:#04x}, which is no lane", tag[0]))
    })
}

/// Reads one frame of at most `limit` bytes and not a byte more.
pub(super) async fn frame(stream: &mut RecvStream, limit: usize) -> Result<Vec<u8>, Fault> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let length = u32::from_le_bytes(header) as usize;
    check_length(length, limit)?;
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

/// Delivers the frames of one lane until it ends.
pub(super) async fn frames(
    lane: Lane,
    stream: &mut RecvStream,
    receive: &dyn Receive,
) -> Result<(), Fault> {
    let mut frames = Frames::default();
    // Ordered: QUIC delivers chunks as sent, and as large as they came in.
    while let Some(chunk) = stream.read_chunk(usize::MAX, true).await? {
        frames.push(chunk.bytes, |frame| receive.frame(lane, frame))?;
    }
    if frames.is_within_frame() {
        return Err(Fault::Rules("a lane ended within a frame".into()));
    }
    Ok(())
}

/// Delivers the frames of the next lane that the peer opens.
pub(super) async fn next_lane(inner: &Inner, receive: &dyn Receive) -> Result<(), Fault> {
    let Ok(mut stream) = inner.connection().accept_uni().await else {
        return Err(Fault::Lost);
    };
    let lane = lane(&mut stream).await?;
    if !inner.first_of(lane) {
        return Err(Fault::Rules(format!("a second stream for lane {lane:?}")));
    }
    frames(lane, &mut stream, receive).await
}

fn check_length(length: usize, limit: usize) -> Result<(), Fault> {
    if length > limit {
        return Err(Fault::Rules(format!(
            "a frame of {length} bytes, where {limit} are the limit"
        )));
    }
    Ok(())
}

/// Cuts chunks of a stream into frames. A frame that lies within one chunk is
/// a slice of it; one that spans chunks is copied once, into a buffer of its
/// own size.
#[derive(Default)]
pub(super) struct Frames {
    /// The start of a frame: first its header, then its body.
    partial: BytesMut,
    /// Length of the body being collected, once known.
    length: Option<usize>,
}

impl Frames {
    /// Whether a frame has begun and not ended.
    pub(super) fn is_within_frame(&self) -> bool {
        self.length.is_some() || !self.partial.is_empty()
    }

    /// Takes the next chunk and delivers the frames that it completes.
    pub(super) fn push(
        &mut self,
        mut chunk: Bytes,
        mut deliver: impl FnMut(Bytes),
    ) -> Result<(), Fault> {
        loop {
            let length = match self.length {
                Some(length) => length,
                None => match self.header(&mut chunk)? {
                    Some(length) => length,
                    None => return Ok(()),
                },
            };
            if self.partial.is_empty() && chunk.len() >= length {
                deliver(chunk.split_to(length));
            } else {
                if self.partial.is_empty() {
                    self.partial.reserve(length);
                }
                let missing = (length - self.partial.len()).min(chunk.len());
                self.partial.extend_from_slice(&chunk[..missing]);
                chunk.advance(missing);
                if self.partial.len() < length {
                    self.length = Some(length);
                    return Ok(());
                }
                deliver(std::mem::take(&mut self.partial).freeze());
            }
            self.length = None;
        }
    }

    /// The length of the next frame, unless the chunk ends within its header.
    fn header(&mut self, chunk: &mut Bytes) -> Result<Option<usize>, Fault> {
        if self.partial.is_empty() && chunk.len() >= HEADER_BYTES {
            let length = chunk.get_u32_le() as usize;
            check_length(length, MAX_FRAME_BYTES)?;
            return Ok(Some(length));
        }
        let missing = (HEADER_BYTES - self.partial.len()).min(chunk.len());
        self.partial.extend_from_slice(&chunk[..missing]);
        chunk.advance(missing);
        if self.partial.len() < HEADER_BYTES {
            return Ok(None);
        }
        let length = self.partial.get_u32_le() as usize;
        self.partial = BytesMut::new();
        check_length(length, MAX_FRAME_BYTES)?;
        Ok(Some(length))
    }
}
