//! Every measured claim about Posta, beside its peers.
