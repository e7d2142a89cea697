//! What commands come to, one file per family; and what holds for any log at all, in `random`.

mod editing;
mod jobs;
mod media;
mod membership;
mod random;
mod sessions;
mod uploads;
