//! What every HTTP/1 server of Wharf does with connections, whatever it serves: how many it takes,
//! how long it waits for a request, what becomes of a body that nobody read, and how it ends.
//!
//! The gateway and the model server have this in common and nothing else; so it knows no route, no
//! error body and no setting of either.

mod accept;
mod unread;

pub use accept::{raise_file_limit, serve};
pub use unread::discard_unread;
