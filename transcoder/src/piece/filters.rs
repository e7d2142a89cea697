//! From decoded frames to the pictures of all rungs: deinterlaced, turned, in standard colours, and scaled.
//!
//! Each rung is scaled from the one above it, which is cheaper than scaling all of them from the source and looks the same.

use std::fmt::Write as _;

use ffmpeg_next::{Error, filter, format, frame, picture};

use crate::error::{Code, Failure};
use crate::ffi;
use crate::recipe::{Picture, VideoRecipe};

/// Takes a frame for the output with this number; `false` when nobody wants more.
pub(crate) type Take<'a> = dyn Fn(usize, frame::Video) -> bool + 'a;

/// See the module.
pub(crate) struct Filters {
    picture: Picture,
    timescale: u32,
    sizes: Vec<(u32, u32)>,
    pixels: format::Pixel,
    full_range: bool,
    graph: Option<Graph>,
}

struct Graph {
    graph: filter::Graph,
    /// What the graph was made for. A source may change it on the way.
    input: (u32, u32, format::Pixel),
}

impl Filters {
    /// For frames to be encoded; sizes from large to small.
    pub(crate) fn new(video: &VideoRecipe, sizes: &[(u32, u32)]) -> Self {
        Self {
            picture: video.picture,
            timescale: video.clock.timescale,
            sizes: sizes.to_vec(),
            pixels: format::Pixel::YUV420P,
            full_range: false,
            graph: None,
        }
    }

    /// For one picture as JPEG has it.
    pub(crate) fn for_jpeg(video: &VideoRecipe, size: (u32, u32)) -> Self {
        let base = Self::new(video, &[size]);
        Self { pixels: format::Pixel::YUVJ420P, full_range: true, ..base }
    }

    /// Puts a frame in, to be shown at `tick`, and gives what comes out to `take`.
    pub(crate) fn push(
        &mut self,
        frame: &frame::Video,
        tick: u64,
        is_cut: bool,
        take: &Take<'_>,
    ) -> Result<bool, Failure> {
        let input = (frame.width(), frame.height(), frame.format());
        if self.graph.as_ref().is_some_and(|graph| graph.input != input) {
            if !self.finish(take)? {
                return Ok(false);
            }
            self.graph = None;
        }
        let mut shared = ffi::share(frame)
            .ok_or_else(|| Failure::new(Code::Internal, "Memory ran out for a frame."))?;
        shared.set_pts(i64::try_from(tick).ok());
        // Filters hand the kind on; behind them it tells the encoders where to cut.
        shared.set_kind(if is_cut { picture::Type::I } else { picture::Type::None });
        if self.graph.is_none() {
            let graph = self.build(input, shared.color_range() == ffmpeg_next::color::Range::JPEG);
            self.graph = Some(Graph { graph: graph.map_err(|error| refused(&error))?, input });
        }
        let graph = &mut self.graph.as_mut().expect("it was put there just now").graph;
        let mut source = graph.get("in").expect("every graph has a source");
        source.source().add(&shared).map_err(|error| refused(&error))?;
        self.drain(take)
    }

    /// Gives out what the filters still hold.
    pub(crate) fn finish(&mut self, take: &Take<'_>) -> Result<bool, Failure> {
        let Some(graph) = &mut self.graph else { return Ok(true) };
        let mut source = graph.graph.get("in").expect("every graph has a source");
        source.source().flush().map_err(|error| refused(&error))?;
        self.drain(take)
    }

    fn drain(&mut self, take: &Take<'_>) -> Result<bool, Failure> {
        let Some(graph) = &mut self.graph else { return Ok(true) };
        for index in 0..self.sizes.len() {
            let mut sink = graph.graph.get(&format!("out{index}")).expect("one sink per size");
            loop {
                let mut frame = frame::Video::empty();
                match sink.sink().frame(&mut frame) {
                    Ok(()) => {
                        // Deinterlacing counts in half ticks.
                        let base = sink.sink().time_base();
                        let per_tick = i64::from(base.denominator())
                            / (i64::from(base.numerator()) * i64::from(self.timescale)).max(1);
                        let tick = frame.pts().map(|pts| pts / per_tick.max(1));
                        frame.set_pts(tick);
                        if !take(index, frame) {
                            return Ok(false);
                        }
                    }
                    Err(Error::Eof | Error::Other { errno: libc::EAGAIN }) => break,
                    Err(error) => return Err(refused(&error)),
                }
            }
        }
        Ok(true)
    }

    fn build(
        &self,
        input: (u32, u32, format::Pixel),
        full_range: bool,
    ) -> Result<filter::Graph, Error> {
        let (width, height, pixels) = input;
        let find = |name| filter::find(name).ok_or(Error::FilterNotFound);
        let mut graph = filter::Graph::new();
        let pixels = ffmpeg_next::ffi::AVPixelFormat::from(pixels) as i32;
        let arguments = format!(
            "video_size={width}x{height}:pix_fmt={pixels}:time_base=1/{}:pixel_aspect=1/1",
            self.timescale
        );
        graph.add(&find("buffer")?, "in", &arguments)?;
        for index in 0..self.sizes.len() {
            graph.add(&find("buffersink")?, &format!("out{index}"), "")?;
        }
        let description = self.description(full_range);
        let mut parser = graph.output("in", 0)?;
        for index in 0..self.sizes.len() {
            parser = parser.input(&format!("out{index}"), 0)?;
        }
        parser.parse(&description)?;
        graph.validate()?;
        Ok(graph)
    }

    /// The graph in libavfilter's language.
    fn description(&self, full_range_source: bool) -> String {
        let mut text = String::from("[in]");
        if self.picture.interlaced {
            text += "bwdif=mode=send_frame:deint=interlaced,";
        }
        let turn = self.picture.turn;
        let (width, height) = self.sizes[0];
        let (width, height) = if turn.swaps_sides() { (height, width) } else { (width, height) };
        let pixels = format::Pixel::descriptor(self.pixels).map_or("yuv420p", |d| d.name());
        let range = if self.full_range { "pc" } else { "tv" };
        let from = if full_range_source { "in_range=pc:" } else { "" };
        let tone_map = self.picture.hdr && filter::find("zscale").is_some();
        if tone_map {
            let _ = write!(
                text,
                "scale={width}:{height}:flags=bicubic,zscale=t=linear:npl=100,format=gbrpf32le,\
                 zscale=p=bt709,tonemap=hable:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p,"
            );
        }
        let _ = write!(
            text,
            "scale={width}:{height}:flags=bicubic:{from}out_range={range},format={pixels}"
        );
        match turn.quarters {
            1 => text += ",transpose=clock",
            2 => text += ",hflip,vflip",
            3 => text += ",transpose=cclock",
            _ => {}
        }
        if turn.mirrored {
            text += ",hflip";
        }
        for (index, (width, height)) in self.sizes.iter().enumerate().skip(1) {
            let above = index - 1;
            let _ = write!(
                text,
                ",split[out{above}][from{above}];[from{above}]scale={width}:{height}:flags=bicubic"
            );
        }
        let _ = write!(text, "[out{}]", self.sizes.len() - 1);
        text
    }
}

fn refused(error: &Error) -> Failure {
    let code = if matches!(error, Error::Other { errno: libc::ENOMEM }) {
        Code::Internal
    } else {
        Code::CorruptMedia
    };
    Failure::new(code, format!("The pictures cannot be converted: {error}."))
}
