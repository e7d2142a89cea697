//! `reelraft video …`: a client of the public API.

mod upload;

use clap::{Subcommand, ValueEnum};
use cluster::ids::VideoId;
use gateway::api::{self, Video, VideoPage};
use reqwest::Method;

use super::client::{Api, Target};
use super::output;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Upload a file
    Upload(upload::Args),
    /// List public videos, the newest first
    List {
        /// Only those whose title contains this
        #[arg(long, short, value_name = "TEXT")]
        query: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a video
    Show {
        id: VideoId,
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a video
    Delete {
        id: VideoId,
        #[command(flatten)]
        target: Target,
    },
}

/// Who finds and sees a video.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Visibility {
    /// Listed, and playable by everybody
    Public,
    /// Playable by everybody who knows the address
    Unlisted,
    /// Neither
    Private,
}

/// The most that the API gives at once.
const PAGE_MAX: usize = 100;

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Upload(args) => upload::run(args).await,
        Command::List { query, limit, target, json } => {
            let videos = list(&Api::new(&target)?, query.as_deref(), limit).await?;
            if json {
                return output::json(&videos);
            }
            output::line(&video_table(&videos));
            Ok(())
        }
        Command::Show { id, target, json } => {
            let api = Api::new(&target)?;
            let video: Video = api.get(&path_of(id)).await?;
            if json {
                return output::json(&video);
            }
            output::line(&page(&api, &video));
            Ok(())
        }
        Command::Delete { id, target } => {
            let api = Api::new(&target)?;
            api.send(api.request(Method::DELETE, &path_of(id))).await?;
            output::line(&format!("deleted {id}"));
            Ok(())
        }
    }
}

fn path_of(id: VideoId) -> String {
    format!("/api/v1/videos/{id}")
}

async fn list(api: &Api, query: Option<&str>, limit: usize) -> anyhow::Result<Vec<Video>> {
    let mut videos = Vec::new();
    let mut cursor: Option<String> = None;
    while videos.len() < limit {
        let mut request = api
            .request(Method::GET, "/api/v1/videos")
            .query(&[("limit", (limit - videos.len()).min(PAGE_MAX))]);
        if let Some(query) = query {
            request = request.query(&[("q", query)]);
        }
        if let Some(cursor) = &cursor {
            request = request.query(&[("cursor", cursor)]);
        }
        let page: VideoPage = api.read(request).await?;
        videos.extend(page.items);
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    videos.truncate(limit);
    Ok(videos)
}

fn video_table(videos: &[Video]) -> String {
    let rows = videos
        .iter()
        .map(|video| {
            [
                video.id.to_string(),
                state(video),
                output::clock(video.duration_seconds),
                size(video.width, video.height),
                video.views.to_string(),
                video.created_at.clone(),
                video.title.clone(),
            ]
        })
        .collect();
    output::table(["ID", "STATE", "LENGTH", "SIZE", "VIEWS", "CREATED", "TITLE"], rows)
}

fn page(api: &Api, video: &Video) -> String {
    let mut lines = vec![
        output::bold(&video.title),
        format!("id         {}", video.id),
        format!("state      {}", state(video)),
    ];
    if let Some(error) = &video.error {
        lines.push(format!("error      {} ({})", error.detail, error.code));
    }
    lines.push(format!(
        "length     {}, {} playable",
        output::clock(video.duration_seconds),
        output::clock(Some(video.playable_seconds))
    ));
    lines.push(format!("size       {}", size(video.width, video.height)));
    lines.push(format!("views      {}", video.views));
    lines.push(format!("created    {}", video.created_at));
    lines.push(format!("watch      {}", api.url(&video.urls.watch)));
    if !video.renditions.is_empty() {
        let rows = video
            .renditions
            .iter()
            .map(|rendition| {
                [
                    rendition.name.clone(),
                    size(rendition.width, rendition.height),
                    format!("{} kbit/s", rendition.bitrate / 1000),
                    rendition.codecs.clone().unwrap_or_else(|| "-".to_owned()),
                    output::clock(Some(rendition.seconds)),
                ]
            })
            .collect();
        lines.push(String::new());
        lines.push(output::table(["RENDITION", "SIZE", "RATE", "CODECS", "LENGTH"], rows));
    }
    lines.join("\n")
}

fn size(width: Option<u32>, height: Option<u32>) -> String {
    match (width, height) {
        (Some(width), Some(height)) => format!("{width}x{height}"),
        _ => "-".to_owned(),
    }
}

fn state(video: &Video) -> String {
    match video.state {
        api::VideoState::Uploading => "uploading".to_owned(),
        api::VideoState::Processing => format!("processing {:.0} %", video.progress * 100.0),
        api::VideoState::Ready => "ready".to_owned(),
        api::VideoState::Failed => match &video.error {
            Some(error) => format!("failed: {}", error.code),
            None => "failed".to_owned(),
        },
    }
}
