// Package founding decides how processes that know no cluster come to have exactly one. It is a pure machine: events and the time go
// in, actions come out; it has no clock, no I/O, no goroutine and no randomness.
//
// # The protocol
//
// A process that sees Expect processes without a cluster, itself among them, and may vote, and has the lowest name of those who may, mints
// a UUID, accepts it itself and invites the others. A process accepts one UUID at a time. When all have accepted, the inviter, and nobody
// else, bootstraps Raft with the first Voters of them and says so to all; those who still accept are bound to the cluster from then on,
// and the voters start Raft. Who leads proposes Found. Each bound process that hears of a leader, and that Found is committed, stores
// that it confirms, and only then asks the leader to commit its confirmation. The cluster opens when Expect servers have confirmed.
//
//   - Before the bootstrap an inviter gives way to a lower name, and gives up when not all answer in time, by releasing its acceptors. An
//     acceptor withdraws when it hears nothing for a while, and refuses that UUID's invitations from then on. After the bootstrap nobody
//     gives way.
//   - A name that should invite but does not is overtaken after Timeouts.Patience.
//   - Who knows no cluster joins an open one that it sees, or else an unopened one that is led, as a further confirmer, even if it once
//     refused its invitation.
//   - An unopened cluster that meets an open one is left, as is one that can't ever open: it is dead when its voters that have not refused
//     for good are no majority (dead), or a committed entry says so (Led.Dissolved), which a leader asks for when another led
//     cluster with a lesser UUID stands beside its own, neither having enough confirmers.
//   - Who leaves a cluster wipes its log and takes a new server UUID, and a server that has refused a cluster never acts in it: so
//     no voter ever comes back without its log.
//   - Who has not confirmed may leave a cluster that nobody leads when its log has no entry (giveUp), and, in memory, one that is
//     deserted (deserted). Who has confirmed leaves only what is proven dead.
//
// # What is promised
//
// With Expect more than half of the processes that take part, where a process in memory that crashes and starts again counts as
// another one:
//
//   - At most one cluster ever opens. Two that opened would share a confirmer; a process confirms a second cluster only when the first
//     can't open any more (it is dead) or another had opened before, which by the same argument is the second itself.
//   - A UUID is bootstrapped at most once, by the server that minted it.
//   - With DataDir, or as long as nothing in memory crashes: once faults stop and all processes run and reach each other, they all come
//     to belong to one open cluster.
//
// A crash in memory forgets what was promised. Still:
//
//   - If Expect is more than the processes that are left without a majority of the founding voters (Expect > N - (Voters/2+1); so for
//     2 of 3 with 3 voters, 3 of 5 with 5, 4 of 5 with 3), no cluster opens while another, open one still has its majority. This is
//     what simulation shows, not a proof. Otherwise a second one can open on the far side of a cut from those who crashed and came back;
//     what Charter.Silent is for.
//   - One crash of any one process during the start of three is got over. More can leave a cluster that some process has confirmed, or
//     that had opened, without a majority of its voters for good. Then no other may form, since the lost ones could be merely away: the
//     processes that are bound say in the log that they wait and what ends it (a restart of those that wait).
//
// Against the design's first wording: an acceptance binds for good with the confirmation only, but a voter's Raft begins when the cluster
// has been bootstrapped, not when it accepts, so that who withdraws never has had a vote in it; refusing is of invitations, since three
// processes that must all confirm would otherwise be stuck when one of them withdrew in the moment of the bootstrap; and confirming
// waits for the first committed entry, so that a single crash in memory can't strand a promise.
package founding
