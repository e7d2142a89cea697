//! The only unsafe code of this crate: the few things of libav that ffmpeg-next does not offer safely.
//!
//! Each function is a small safe wrapper with its reason; none keeps a pointer beyond its own call. What is passed in are
//! ffmpeg-next's owning types, so the pointers behind them are valid for as long as the borrow is.
#![allow(unsafe_code, reason = "libav is C; see each SAFETY comment")]

use std::ffi::{CString, c_char, c_int};
use std::{ptr, slice};

use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::{Dictionary, Error, codec, ffi, frame};

/// Opens `io` with the named demuxer, and with no way to open anything else.
///
/// ffmpeg-next's own function lets libav guess the demuxer from the content, reads ahead for the streams' details at
/// once, and cannot install an `io_open`, which is what demuxers call when a file refers to another one.
pub(crate) fn open_input(
    mut io: StreamIo,
    demuxer: &str,
    options: Dictionary<'_>,
) -> Result<Input, Error> {
    let name = CString::new(demuxer).map_err(|_| Error::InvalidData)?;
    let mut options = options;
    // SAFETY: the context is fresh and owned by this function until it is wrapped; `io` outlives it because the wrapper
    // takes it. On failure avformat_open_input frees the context, and with AVFMT_FLAG_CUSTOM_IO it leaves `pb` to `io`.
    unsafe {
        let format = ffi::av_find_input_format(name.as_ptr());
        if format.is_null() {
            return Err(Error::DemuxerNotFound);
        }
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(Error::Other { errno: libc::ENOMEM });
        }
        (*context).pb = io.as_mut_ptr();
        (*context).flags |= ffi::AVFMT_FLAG_CUSTOM_IO;
        (*context).io_open = Some(refuse_to_open);
        let mut raw_options = std::mem::take(&mut options).disown();
        let result =
            ffi::avformat_open_input(&raw mut context, ptr::null(), format, &raw mut raw_options);
        drop(Dictionary::own(raw_options));
        if result < 0 {
            return Err(Error::from(result));
        }
        Ok(Input::wrap_with_custom_io(context, io))
    }
}

extern "C" fn refuse_to_open(
    _context: *mut ffi::AVFormatContext,
    _io: *mut *mut ffi::AVIOContext,
    _url: *const c_char,
    _flags: c_int,
    _options: *mut *mut ffi::AVDictionary,
) -> c_int {
    ffi::AVERROR(libc::EPERM)
}

/// Reads ahead until the streams' parameters are known, within `probesize` and `analyzeduration`.
pub(crate) fn find_stream_info(input: &mut Input) -> Result<(), Error> {
    // SAFETY: the context is open and exclusively borrowed.
    match unsafe { ffi::avformat_find_stream_info(input.as_mut_ptr(), ptr::null_mut()) } {
        result if result < 0 => Err(Error::from(result)),
        _ => Ok(()),
    }
}

/// What a stream's header says; plain copies.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) extradata: Vec<u8>,
    pub(crate) profile: i32,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) pixel_aspect: (i32, i32),
    /// `AVFieldOrder`: 0 unknown, 1 progressive, above that interlaced.
    pub(crate) field_order: u32,
    /// ITU-T H.273 code points.
    pub(crate) primaries: u8,
    pub(crate) transfer: u8,
    pub(crate) matrix: u8,
    pub(crate) sample_rate: u32,
    pub(crate) channels: u32,
    pub(crate) bit_rate: i64,
}

pub(crate) fn parameters(input: &Input, stream: usize) -> Parameters {
    if stream >= input.nb_streams() as usize {
        return Parameters::default();
    }
    // SAFETY: the index is checked; a stream's `codecpar` is never null; extradata is `extradata_size` bytes when set.
    unsafe {
        let c = (**(*input.as_ptr()).streams.add(stream)).codecpar;
        let extradata = if (*c).extradata.is_null() || (*c).extradata_size <= 0 {
            Vec::new()
        } else {
            slice::from_raw_parts((*c).extradata, (*c).extradata_size as usize).to_vec()
        };
        // Enumerations are read as the numbers they are in C: a file may bring values that the bindings do not know.
        let code = |field: *const u32| u8::try_from(field.read()).unwrap_or(UNSPECIFIED);
        Parameters {
            extradata,
            profile: (*c).profile,
            width: u32::try_from((*c).width).unwrap_or(0),
            height: u32::try_from((*c).height).unwrap_or(0),
            pixel_aspect: ((*c).sample_aspect_ratio.num, (*c).sample_aspect_ratio.den),
            field_order: (&raw const (*c).field_order).cast::<u32>().read(),
            primaries: code((&raw const (*c).color_primaries).cast()),
            transfer: code((&raw const (*c).color_trc).cast()),
            matrix: code((&raw const (*c).color_space).cast()),
            sample_rate: u32::try_from((*c).sample_rate).unwrap_or(0),
            channels: u32::try_from((*c).ch_layout.nb_channels).unwrap_or(0),
            bit_rate: (*c).bit_rate,
        }
    }
}

/// H.273: nobody said.
const UNSPECIFIED: u8 = 2;

/// One entry of the container's index, in the stream's time base and in decode order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexEntry {
    /// Decode time.
    pub(crate) timestamp: i64,
    /// Offset in the source.
    pub(crate) position: u64,
    pub(crate) size: u32,
    pub(crate) is_key: bool,
    /// Needed for decoding others, but cut away by an edit list.
    pub(crate) is_hidden: bool,
}

/// The index as far as the demuxer has it now.
pub(crate) fn index_entries(input: &mut Input, stream: usize) -> Vec<IndexEntry> {
    if stream >= input.nb_streams() as usize {
        return Vec::new();
    }
    // SAFETY: the index is checked; entries are valid until the next call that may change the index, and none is made
    // while they are read.
    unsafe {
        let stream = *(*input.as_mut_ptr()).streams.add(stream);
        let count = ffi::avformat_index_get_entries_count(stream);
        (0..count)
            .filter_map(|i| ffi::avformat_index_get_entry(stream, i).as_ref())
            .map(|entry| IndexEntry {
                timestamp: entry.timestamp,
                position: u64::try_from(entry.pos).unwrap_or(0),
                size: u32::try_from(entry.size()).unwrap_or(0),
                is_key: entry.flags() & ffi::AVINDEX_KEYFRAME != 0,
                is_hidden: entry.flags() & ffi::AVINDEX_DISCARD_FRAME != 0,
            })
            .collect()
    }
}

/// Tells the demuxer whether anybody wants the stream's packets.
pub(crate) fn set_wanted(input: &mut Input, stream: usize, wanted: bool) {
    if stream >= input.nb_streams() as usize {
        return;
    }
    let discard =
        if wanted { ffi::AVDiscard::AVDISCARD_DEFAULT } else { ffi::AVDiscard::AVDISCARD_ALL };
    // SAFETY: the index is checked; `discard` is a field that callers may set at any time.
    unsafe { (**(*input.as_mut_ptr()).streams.add(stream)).discard = discard };
}

/// Goes to the last keyframe of `stream` at or before `timestamp` (in the stream's time base).
///
/// ffmpeg-next seeks in microseconds only, which is not exact enough to hit a frame.
pub(crate) fn seek(input: &mut Input, stream: usize, timestamp: i64) -> Result<(), Error> {
    let stream = c_int::try_from(stream).map_err(|_| Error::StreamNotFound)?;
    // SAFETY: the context is open and exclusively borrowed; libav checks the stream index.
    match unsafe {
        ffi::av_seek_frame(input.as_mut_ptr(), stream, timestamp, ffi::AVSEEK_FLAG_BACKWARD)
    } {
        result if result < 0 => Err(Error::from(result)),
        _ => Ok(()),
    }
}

/// Another reference to the same pixels. ffmpeg-next's `Clone` copies them.
pub(crate) fn share(frame: &frame::Video) -> Option<frame::Video> {
    // SAFETY: the pixels are reference-counted and never written to after this; the new frame owns its reference, and
    // moving the reference into an `empty` frame leaves the freeing to ffmpeg-next's wrapper.
    unsafe {
        let mut copy = frame::Video::empty();
        (ffi::av_frame_ref(copy.as_mut_ptr(), frame.as_ptr()) >= 0).then_some(copy)
    }
}

/// The opened encoder's global header: parameter sets, or the `AudioSpecificConfig`.
pub(crate) fn extradata(context: &codec::Context) -> Vec<u8> {
    // SAFETY: extradata is `extradata_size` bytes when set, and belongs to the borrowed context.
    unsafe {
        let c = &*context.as_ptr();
        if c.extradata.is_null() || c.extradata_size <= 0 {
            Vec::new()
        } else {
            slice::from_raw_parts(c.extradata, c.extradata_size as usize).to_vec()
        }
    }
}

/// How many samples the opened audio encoder puts before the first real one.
pub(crate) fn encoder_delay(context: &codec::Context) -> u32 {
    // SAFETY: a plain field of a borrowed context.
    u32::try_from(unsafe { (*context.as_ptr()).initial_padding }).unwrap_or(0)
}

/// The duration of a decoded frame in the decoder's packet time base, 0 when unknown.
pub(crate) fn frame_duration(frame: &frame::Video) -> i64 {
    // SAFETY: a plain field of a borrowed frame.
    unsafe { (*frame.as_ptr()).pkt_duration }
}

/// Says to an encoder which H.273 code points its pictures are in. ffmpeg-next's setters take enums whose conversion from
/// a code point is not public.
pub(crate) fn set_color(context: &mut codec::Context, primaries: u8, transfer: u8, matrix: u8) {
    for (name, value) in
        [(c"color_primaries", primaries), (c"color_trc", transfer), (c"colorspace", matrix)]
    {
        // SAFETY: an AVCodecContext begins with its AVClass, which is what av_opt_set_int asks for. A value that is out
        // of range is refused and leaves the option as it was.
        unsafe {
            ffi::av_opt_set_int(context.as_mut_ptr().cast(), name.as_ptr(), i64::from(value), 0)
        };
    }
}

/// Lets no message of libav reach standard error: a hostile file could write there for ever.
pub(crate) fn silence_log() {
    // SAFETY: sets a number; the default callback stays and prints nothing at this level.
    unsafe { ffi::av_log_set_level(ffi::AV_LOG_QUIET) };
}
