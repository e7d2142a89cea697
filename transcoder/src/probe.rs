//! What may be opened at all: the containers and codecs that libav is let near.
//!
//! libav knows 350 formats, and many of them are small programs: playlists and concatenation scripts that name further
//! files and addresses, text that is drawn as pictures. None of that is wanted. So the container is recognized here, from
//! the first bytes, and libav is told which demuxer to use; it never guesses.

pub(crate) mod codecs;
pub(crate) mod mp4;
pub(crate) mod sniff;
