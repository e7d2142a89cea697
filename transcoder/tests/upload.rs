//! Work begins while the upload goes on: nothing is read that is not needed yet.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::{Studio, Upload};
use transcoder::{CopyJob, Cuts, Job, Lane, Outcome, Output, PieceJob, Plan, PrepareJob, run};

/// Longer than any of these steps takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn begin(job: Job, upload: &Upload) -> (Receiver<Output>, JoinHandle<Outcome>) {
    let (sender, receiver) = channel();
    let source = upload.clone();
    let work = thread::spawn(move || {
        run(&job, source, &mut |output| sender.send(output).map_err(std::io::Error::other))
    });
    (receiver, work)
}

fn wait_for<T>(outputs: &Receiver<Output>, mut wanted: impl FnMut(Output) -> Option<T>) -> T {
    loop {
        let output = outputs.recv_timeout(PATIENCE).expect("an output, without further bytes");
        if let Some(found) = wanted(output) {
            return found;
        }
    }
}

fn plan(upload: &Upload) -> Plan {
    let (outputs, work) = begin(Job::Prepare(PrepareJob::default()), upload);
    let plan = wait_for(
        &outputs,
        |output| if let Output::Plan(plan) = output { Some(plan) } else { None },
    );
    work.join().unwrap().unwrap();
    plan
}

fn segment(output: Output) -> Option<u32> {
    if let Output::Segment { number, .. } = output { Some(number) } else { None }
}

const STANDARD: &str = "-f lavfi -i testsrc2=s=640x360:r=25:d=20 -f lavfi -i sine=d=20 \
    -c:v libx264 -preset ultrafast -g 25 -pix_fmt yuv420p -b:v 2M -c:a aac -ac 2";

#[test]
fn copying_keeps_pace_with_the_upload() {
    let studio = Studio::open();
    for (flags, name) in
        [("-movflags +faststart", "clip.mp4"), ("", "clip.mkv"), ("-f mpegts", "clip.ts")]
    {
        let clip = studio.clip(&format!("{STANDARD} {flags}"), name);
        let half = clip.len() as u64 / 2;
        let upload = Upload::new(&clip, half);
        let plan = plan(&upload);
        assert_eq!(plan.renditions[0].lane, Lane::Copy, "{name}");
        let job = CopyJob { recipe: plan.recipe, renditions: vec![0], cuts: plan.cuts };
        let (outputs, work) = begin(Job::Copy(job), &upload);
        // With half of the bytes there are some eight seconds in finished segments.
        wait_for(&outputs, |output| segment(output).filter(|number| *number == 2));
        assert!(!work.is_finished());
        upload.arrive(clip.len() as u64);
        let end = wait_for(&outputs, |output| {
            if let Output::SourceEnd { ticks } = output { Some(ticks) } else { None }
        });
        assert_eq!(end, 20 * u64::from(plan.renditions[0].timescale), "{name}");
        work.join().unwrap().unwrap();
    }
}

#[test]
fn the_first_piece_is_encoded_from_the_first_bytes() {
    let studio = Studio::open();
    for (arguments, name) in [
        (
            "-c:v libx265 -preset ultrafast -x265-params log-level=none -g 50 -movflags +faststart",
            "clip.mp4",
        ),
        ("-c:v libvpx -cpu-used 8 -deadline realtime -g 50 -b:v 1M", "clip.webm"),
    ] {
        let clip =
            studio.clip(&format!("-f lavfi -i testsrc2=s=320x180:r=25:d=10 {arguments}"), name);
        let upload = Upload::new(&clip, clip.len() as u64 / 2);
        let plan = plan(&upload);
        assert_eq!(
            (plan.renditions[0].lane, plan.duration_ms),
            (Lane::Encode, Some(10_000)),
            "{name}"
        );
        let Cuts::Known(cuts) = &plan.cuts else { panic!("{name}: {:?}", plan.cuts) };
        let job = PieceJob {
            recipe: plan.recipe.clone(),
            renditions: vec![0],
            first_segment: 0,
            cuts: cuts[..2].to_vec(),
            end: Some(cuts[2]),
            threads: 1,
        };
        let (outputs, work) = begin(Job::Piece(job), &upload);
        wait_for(&outputs, |output| segment(output).filter(|number| *number == 1));
        work.join().unwrap().unwrap();
    }
}

#[test]
fn an_index_at_the_end_is_waited_for() {
    let studio = Studio::open();
    let clip = studio.clip(STANDARD, "clip.mp4");
    let upload = Upload::new(&clip, clip.len() as u64 - 1);
    let (outputs, work) = begin(Job::Prepare(PrepareJob::default()), &upload);
    assert!(outputs.recv_timeout(Duration::from_millis(300)).is_err());
    assert!(!work.is_finished());
    upload.arrive(clip.len() as u64);
    wait_for(&outputs, |output| matches!(output, Output::Plan(_)).then_some(()));
    work.join().unwrap().unwrap();
}
