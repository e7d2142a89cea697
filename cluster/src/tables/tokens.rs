//! Tokens that let nodes join.

use serde::{Deserialize, Serialize};

use super::nodes::Role;
use crate::ids::{NodeId, PublicKeyHash, SecretHash, TokenId};
use crate::table::Table;
use crate::view::TableId;

/// Every token that was made and not revoked. One that has expired stays for a while, so that whoever brings it hears what
/// is wrong with it.
pub const TOKENS: Table<TokenId, TokenRow> = Table::new(TableId::Tokens);

/// What a token allows, and whom it let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// The secret itself is known to the operator alone.
    pub secret_hash: SecretHash,
    /// The roles that a node may have which joins with it.
    pub roles: Vec<Role>,
    /// By the catalog's clock, in milliseconds since 1970: from then on it lets nobody in.
    pub expires_ms: u64,
    /// How many more nodes it lets in.
    pub uses_left: u32,
    /// Whom it let in.
    pub uses: Vec<(PublicKeyHash, NodeId)>,
    /// The operator.
    pub created_by: String,
}
