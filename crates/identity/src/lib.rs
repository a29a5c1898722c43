//! Who may do what: the CA, certificates, join tokens, roles, OIDC.
