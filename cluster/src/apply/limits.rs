//! How much a command may carry and the catalog may hold. A command beyond a limit is refused; none of them is met in
//! ordinary use.

/// Characters of a title.
pub const TITLE_CHARS_MAX: usize = 200;

/// Characters of a description.
pub const DESCRIPTION_CHARS_MAX: usize = 10_000;

/// Characters of the name of an uploaded file. File systems allow 255 bytes.
pub const FILENAME_CHARS_MAX: usize = 255;

/// Bytes of an upload key: part of a key in a table.
pub const UPLOAD_KEY_BYTES_MAX: usize = 200;

/// Characters of an error's code and of its detail.
pub const ERROR_CODE_CHARS_MAX: usize = 64;
/// See [`ERROR_CODE_CHARS_MAX`].
pub const ERROR_DETAIL_CHARS_MAX: usize = 1000;

/// Bytes of a block. The longest segment, 8 s at 50 Mbit/s, has as many.
pub const BLOCK_BYTES_MAX: u32 = 64 << 20;

/// Blocks of one source: 64 GiB in blocks of 1 MiB.
pub const SOURCE_BLOCKS_MAX: u32 = 1 << 16;

/// Blocks in one command that continues a source.
pub const APPEND_BLOCKS_MAX: usize = 1024;

/// Segments in one command. A piece has 16 of one second at most; the audio job commits as it goes.
pub const COMMIT_SEGMENTS_MAX: usize = 512;

/// Videos in one command that counts views.
pub const COUNT_VIEWS_MAX: usize = 10_000;

/// Characters of a codecs string.
pub const CODECS_CHARS_MAX: usize = 64;

/// Registered nodes. The layout's encoding bounds them too.
pub const NODES_MAX: usize = crate::placement::LAYOUT_NODES_MAX;

/// Characters of each text in a node's registration.
pub const NODE_TEXT_CHARS_MAX: usize = 255;

/// Characters of the name of whoever asks for something administrative.
pub const ACTOR_CHARS_MAX: usize = 100;

/// Bytes of the authority's certificate, and of its key. Those of P-256 have a few hundred.
pub const AUTHORITY_BYTES_MAX: usize = 16 << 10;

/// Tokens there are at a time, expired ones included. An operator makes one for each rack or each node.
pub const TOKENS_MAX: usize = 256;

/// Nodes that one token lets in: as many as there can be.
pub const TOKEN_USES_MAX: u32 = NODES_MAX as u32;

/// The longest life of a token, in milliseconds: 30 days. What lives longer is forgotten somewhere.
pub const TOKEN_LIFE_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// How long a token is remembered after it has expired, in milliseconds: a day, in which people ask why it does not work.
pub const TOKEN_KEPT_MS: u64 = 24 * 3600 * 1000;

/// The longest maintenance, in milliseconds: 7 days. A machine that is away longer has to be drained, or extended.
pub const MAINTENANCE_MS_MAX: u64 = 7 * 24 * 3600 * 1000;

/// Entries of the audit log that are kept. Some megabytes.
pub const AUDIT_ROWS_MAX: u64 = 10_000;

/// Entries of the audit log that one command deletes at most: more than the one that it adds.
pub const AUDIT_ROWS_DELETED_PER_COMMAND: usize = 4;

/// Characters of an entry's action and of its outcome in the audit log.
pub const AUDIT_TEXT_CHARS_MAX: usize = 500;

/// Leases in one command. A node works on a few jobs at a time.
pub const LEASES_PER_COMMAND_MAX: usize = 1024;

/// Blocks that one command reaps: 33 KB of hashes.
pub const REAP_BLOCKS_MAX: usize = 1000;

/// Reaped blocks that one command forgets.
pub const FORGET_BLOCKS_MAX: usize = 1000;

/// The shortest and the longest lease, in milliseconds. Shorter ones would be lost in an election, longer ones keep a dead
/// worker's job from the others.
pub const LEASE_MS_MIN: u64 = 1_000;
/// See [`LEASE_MS_MIN`].
pub const LEASE_MS_MAX: u64 = 600_000;

/// Jobs that a claim looks at before it answers that there is nothing to do. Reached only when so many videos wait for
/// their uploads.
pub const CLAIM_SCAN_MAX: usize = 4096;

/// Tries of a job that may end with an error of the worker. A crash by chance does not happen four times.
pub const FAILURES_MAX: u32 = 4;

/// Tries of a job that may end because its holder was not heard of any more. More than failures: nodes restart.
pub const EXPIRIES_MAX: u32 = 10;

/// How long a job rests after its second and each further failure, in milliseconds: the second entry after the third one. A
/// first failure is tried elsewhere at once; what fails twice may need time, such as a disk that fills up and is cleared.
pub const RETRY_PAUSES_MS: [u64; 2] = [2_000, 8_000];

/// How long the node on which a try failed leaves the job to the others, in milliseconds. If none of them takes it in that
/// time, none is free.
pub const FAILED_ON_PAUSE_MS: u64 = 10_000;

/// Replies that are kept for one client, counted in sequence numbers. A proposer has far fewer commands under way.
pub const REPLY_WINDOW: u64 = 4096;

/// Replies that one command deletes at most: more than the one that it adds, so that deleting catches up.
pub const REPLIES_DELETED_PER_COMMAND: usize = 16;

/// How long a client is remembered after it was last heard of, in milliseconds: a day. A proposer gives up on a command
/// after seconds.
pub const SESSION_IDLE_MS_MAX: u64 = 24 * 3600 * 1000;

/// Every so many log entries, one session is looked at for whether it is idle.
pub const SESSION_SWEEP_EVERY: u64 = 16;

/// Replies of an idle session that one sweep deletes at most.
pub const SWEEP_REPLIES_MAX: usize = 256;
