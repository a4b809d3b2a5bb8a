// Package secure keeps out of the one port who does not belong: mutual TLS 1.3 on every stream, and the keys of gossip's packets. Both come
// from one shared secret, or the first from a PKI of the user's own. It says who a peer is; whether that one is welcome is decided above.
//
// # From a secret
//
// HKDF with SHA-256 (RFC 5869) makes of each secret, with a label of its own for each purpose, the private key of a certification authority
// (Ed25519), the key of gossip's packets (AES-256-GCM) and a key for identities (HMAC-SHA-256): none tells anything of the others or of the
// secret. A process makes a key pair of its own when it starts and signs a certificate for it that is bound to its group, its name and its
// server ID: it carries their HMAC, since a certificate is shown to whoever dials. It accepts the certificates of every authority that its
// secrets give, and uses the first. Certificates have no end, and the clock is not asked: a wrong one keeps nobody out, and
// what ends a certificate is a rotation of the secret. Who holds the secret can make a certificate of any name: what stands in it keeps
// processes from being mistaken for each other, not from lying.
package secure
