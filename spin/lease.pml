/* The lease protocol of narrows: what src/narrows/ledger does, step by step. See docs/lease-protocol.md.
 *
 * A log is what its leaves say, so a Merkle root is modelled by the leaves themselves: "a root
 * equals another" is "the leaves are the same". A step is one call to the store or the witness;
 * what a process computes in between is local, hence part of the step. In every step the call
 * may fail in each way that the options below allow, max_faults times in a run, in any mixture.
 */

#ifndef GATES
#define GATES 2            /* processes that share one store and one witness */
#endif
#ifndef TRIES
#define TRIES 2            /* lease ids that a gate draws, those that came to nothing included */
#endif
#ifndef N
#define N 7                /* leaves that a log can hold, budget and genesis not counted */
#endif

/* set once, from the environment of the run: one compiled model serves every check */
byte budget;
byte want;                 /* a lease has 1..want bytes, whatever the rules' shares say */
byte held_at_once;         /* leases that a gate spends from at once */
byte max_faults;
byte kinds;                /* of faults, a sum of the following */
#define CRASHES 1
#define STORE 2
#define WITNESS 4
#define RESTORES 8
#define RECOVERIES 16
#define CLOSES 32          /* orderly ends: no fault, counted as one */
#define MAY(kind) (faults < max_faults && (kinds & (kind)) != 0)
byte mutant;               /* 0: as the code is; others: see docs/lease-protocol.md */

#define IDS (GATES * TRIES + 1)
#define ID(g, s) ((g) * TRIES + (s) + 1)
#define MINE(g, id) ((id) > (g) * TRIES && (id) <= (g) * TRIES + TRIES)
#define ASK 255            /* Session._cosigned_size of -1 */

/* kinds of leaves; a leaf is kind, lease id, bytes */
#define LEASE 0
#define SETTLE 1
#define DEAD 2
#define RECOVER 3
#define LEAF(kind, id, bytes) ((kind) * 64 + (id) * 8 + (bytes))
#define KIND(leaf) ((leaf) >> 6)
#define LEASE_OF(leaf) (((leaf) >> 3) & 7)
#define BYTES(leaf) ((leaf) & 7)

/* what becomes of a call */
#define FINE 0
#define LOST 1             /* it never arrives; the caller sees an error */
#define UNHEARD 2          /* it does its work; the caller sees an error */
#define LATE 3             /* the caller sees an error; it may arrive at any later time */
#define TWICE 4            /* it works, and may arrive again at any later time */

/* what a gate is doing, and how far an acquisition is */
#define BOOT 1
#define ACQUIRE 2
#define SETTLING 3
#define CLOSE 4
#define DRAWN 1
#define WRITTEN 2

typedef Log { byte size; byte leaf[N] };

/* durable */
Log store;
bool torn;                 /* its head is not that of its leaves: nobody can load it */
Log wit;                   /* the witness's newest head */
/* in the network */
Log append_, cosign_;      /* a late append, a late question for a cosignature */
byte append_at = ASK, cosign_old = ASK;
/* volatile, by gate: lost in a crash */
Log rep[GATES];            /* Replica; while stale: what was seen last */
Log ans[GATES];            /* the witness's answer to "latest", on its way */
bool stale[GATES] = true;
byte cosigned[GATES] = ASK;
byte pending[GATES];
bool live[IDS];            /* handed out and not settled: may be sent from */
byte owed[IDS];            /* Owed._leases: 0 or 1 + bytes used */
byte sent[IDS];            /* bytes that left; the gate knows its own count of them too */
byte size[IDS];
/* random ids never come back, so these do not either */
byte drawn[GATES];
/* the oracle's: no step reads them */
byte total;
byte faults;
bool rolled;               /* the store's file was replaced at some time */
bool in_head[IDS];         /* in a head that the witness held */
bool stored[IDS];          /* was in the store at some time */
bool late[IDS];            /* appended to a store that lacked what the witness held */
Log kept;                  /* the file that a restore replaced */
bool kept_torn;

/* scratch, set and used within one step */
hidden byte x, y, z, com, left_, ok;
hidden byte out[IDS], held[IDS];

inline copy(to, from) {
  to.size = from.size; x = 0;
  do
  :: x < N -> to.leaf[x] = from.leaf[x]; x++
  :: else -> break
  od;
  x = 0
}

inline cut(log, count) {
  x = count;
  do
  :: x < log.size -> log.leaf[x] = 0; x++
  :: else -> break
  od;
  log.size = count
}

/* ok: ``a`` is ``b`` or an earlier state of it; consistency proof, and "root_at(n) == root" */
inline prefix(a, b) {
  ok = (a.size <= b.size); x = 0;
  do
  :: ok && x < a.size -> ok = (a.leaf[x] == b.leaf[x]); x++
  :: else -> break
  od;
  x = 0
}

/* State.apply over all leaves: com = spent + outstanding, out[id] = bytes outstanding */
inline replay(log) {
  com = 0; x = 0;
  do
  :: x < IDS -> out[x] = 0; held[x] = 0; x++
  :: else -> break
  od;
  x = 0;
  do
  :: x < log.size ->
     y = LEASE_OF(log.leaf[x]);
     if
     :: KIND(log.leaf[x]) == LEASE ->
        out[y] = BYTES(log.leaf[x]); held[y] = out[y]; com = com + out[y]
     :: KIND(log.leaf[x]) == SETTLE ->
        com = com - (held[y] - BYTES(log.leaf[x])); out[y] = 0
     :: KIND(log.leaf[x]) == DEAD -> out[y] = 0
     :: else ->                                    /* RECOVER: all are dead, the gap is spent */
        y = 0;
        do
        :: y < IDS -> out[y] = 0; y++
        :: else -> break
        od;
        com = com + BYTES(log.leaf[x])
     fi;
     x++
  :: else -> break
  od;
  x = 0
}

inline push(log, code) { log.leaf[log.size] = code; log.size++ }

/* for the trail of an error: a log is printed as kind.lease.bytes */
inline print_log(log) {
  x = 0;
  do
  :: x < log.size ->
     printf(" %d.%d.%d", KIND(log.leaf[x]), LEASE_OF(log.leaf[x]), BYTES(log.leaf[x])); x++
  :: else -> break
  od;
  printf("\n")
}

/* Store.append: compare and swap on the head: size and signed root. ok: stored */
inline append_to_store(new, at) {
  ok = (store.size == at); x = 0;
  do
  :: ok && x < at -> ok = (store.leaf[x] == new.leaf[x] || mutant == 16); x++
  :: else -> break
  od;
  if
  :: mutant == 1 -> ok = true; cut(store, at)
  :: else
  fi;
  if
  :: ok ->
     x = 0;
     do                                            /* the new head is over the writer's leaves */
     :: x < at -> torn = (torn || store.leaf[x] != new.leaf[x]); x++
     :: else -> break
     od;
     x = at;
     do
     :: x < new.size -> store.leaf[x] = new.leaf[x]; x++
     :: else -> break
     od;
     store.size = new.size;
     printf("store, torn=%d:", torn); print_log(store);
     prefix(wit, store);
     x = at;
     do
     :: x < new.size ->
        if
        :: KIND(new.leaf[x]) == LEASE ->           /* when it arrives first; it may once more */
           y = LEASE_OF(new.leaf[x]);
           late[y] = (stored[y] -> late[y] : !ok);
           stored[y] = true
        :: else
        fi;
        x++
     :: else -> break
     od;
     ok = true;
     if
     :: !rolled -> replay(store); assert(total <= com)     /* spent covers what left */
     :: else
     fi
  :: else
  fi
}

/* Witness._store: the head is on disk. What it contains is cosigned from now on */
inline adopt(new) {
  copy(wit, new);
  printf("witness:"); print_log(wit);
  x = 0;
  do
  :: x < wit.size ->
     if
     :: KIND(wit.leaf[x]) == LEASE -> in_head[LEASE_OF(wit.leaf[x])] = true
     :: else
     fi;
     x++
  :: else -> break
  od;
  x = 0
}

/* Witness.cosign: left_ = 0 refused, 1 cosigned, 2 "the witness is at size ..." */
inline ask_cosign(old, new) {
  prefix(wit, new);
  if
  :: old != wit.size && mutant != 8 -> left_ = 2
  :: else ->
     if
     :: !ok && mutant != 8 -> left_ = 0
     :: else ->
        left_ = 1;
        if
        :: mutant == 9
        :: else -> adopt(new)
        fi
     fi
  fi
}

/* the gate's half of Ledger.settle; what is owed already stays (setdefault) */
inline settle(id) {
  live[id] = (mutant == 13);
  owed[id] = (owed[id] > 0 -> owed[id] : sent[id] + 1)
}

/* a process starts: nothing is known, what it held is gone */
inline forget(g) {
  printf("gate %d starts\n", g);
  cut(rep[g], 0); cut(ans[g], 0);
  stale[g] = true; cosigned[g] = ASK; pending[g] = 0;
  x = 1;
  do
  :: x < IDS ->
     if
     :: MINE(g, x) -> live[x] = false; owed[x] = 0
     :: else
     fi;
     x++
  :: else -> break
  od;
  x = 0
}

/* Replica.reload and load. ok: rep is the store's log now */
inline reload(g) {
  prefix(rep[g], store);
  if
  :: mutant == 5 -> ok = (store.size >= rep[g].size)       /* the size alone is looked at */
  :: mutant == 12 -> ok = true
  :: else
  fi;
  ok = (ok && !torn);
  if
  :: ok -> copy(rep[g], store); stale[g] = false; printf("gate %d reads:", g); print_log(rep[g])
  :: else
  fi
}

inline oracle_of_send(id) {
  assert(total <= budget);                         /* nothing of the protocol's is summed here */
  assert(in_head[id]);                             /* a cosigned head contained the lease */
  replay(wit); assert(total <= com);               /* the witness's head covers what left */
  if
  :: !rolled ->
     replay(store); assert(total <= com);
     assert(held[id] > 0)                          /* no lease that was handed out is lost */
  :: else
  fi
}

/* one byte leaves */
inline spend(id) {
  d_step { sent[id]++; total++; printf("sent under %d\n", id); oracle_of_send(id) }
}
#define CAN_SPEND(id) (live[id] && sent[id] < size[id])

active proctype Relay() {
end:
  do
  :: atomic { CAN_SPEND(1) -> spend(1) }
  :: atomic { CAN_SPEND(2) -> spend(2) }
#if GATES * TRIES > 2
  :: atomic { CAN_SPEND(3) -> spend(3) }
#endif
#if GATES * TRIES > 3
  :: atomic { CAN_SPEND(4) -> spend(4) }
#endif
#if GATES * TRIES > 4
  :: atomic { CAN_SPEND(5) -> spend(5) }
#endif
#if GATES * TRIES > 5
  :: atomic { CAN_SPEND(6) -> spend(6) }
#endif
  od
}

/* late messages arrive, as often as they like */
active proctype Network() {
end:
  do
  :: atomic {
       append_at != ASK && append_at == store.size ->
       d_step { append_to_store(append_, append_at) }
     }
  :: atomic {
       cosign_old != ASK && cosign_old == wit.size ->
       d_step { ask_cosign(cosign_old, cosign_) }
     }
  od
}

#define OUTSTANDING_FITS(k) (rep[g].size + (k) <= N)

inline fate_of_append() {
  if
  :: how = FINE
  :: MAY(STORE) -> faults++; how = LOST
  :: MAY(STORE) -> faults++; how = UNHEARD
  :: MAY(STORE) && append_at == ASK -> faults++; how = LATE
  :: MAY(STORE) && append_at == ASK -> faults++; how = TWICE
  fi
}

inline fate_of_cosign() {
  if
  :: how = FINE
  :: MAY(WITNESS) -> faults++; how = LOST
  :: MAY(WITNESS) -> faults++; how = UNHEARD
  :: MAY(WITNESS) && cosign_old == ASK -> faults++; how = LATE
  :: MAY(WITNESS) && cosign_old == ASK -> faults++; how = TWICE
  fi
}

/* Replica.append of what was pushed after ``was``. how: FINE if it is known to be stored,
 * TWICE becomes FINE; LOST where it conflicts or failed. void, and rep cut back, unless FINE. */
inline append(g) {
  d_step {
    ok = false;
    if
    :: how == LATE || how == TWICE -> copy(append_, rep[g]); append_at = was
    :: else
    fi;
    if
    :: how == FINE || how == UNHEARD || how == TWICE -> append_to_store(rep[g], was)
    :: else
    fi;
    if
    :: ok && (how == FINE || how == TWICE) -> how = FINE; stale[g] = false
    :: else ->
       printf("gate %d: append %d fails:", g, how); print_log(rep[g]);
       how = (how == FINE || how == TWICE -> TWICE : LOST);    /* TWICE: ConflictError */
       cut(rep[g], was); stale[g] = true
    fi
  }
}

#define MAY_CRASH :: MAY(CRASHES) -> faults++; goto boot

/* Session.ready, then the job: to the next call that has to be made */
inline go_on(g) {
  if
  :: stale[g] -> goto read
  :: !stale[g] && cosigned[g] == ASK -> goto ask
  :: !stale[g] && cosigned[g] != ASK && job == BOOT -> goto dead
  :: !stale[g] && cosigned[g] != ASK && job == SETTLING -> goto settlements
  :: !stale[g] && cosigned[g] != ASK && job == ACQUIRE && stage == WRITTEN -> goto cosign
  :: !stale[g] && cosigned[g] != ASK && job == ACQUIRE && stage == DRAWN -> goto lease
  :: !stale[g] && cosigned[g] != ASK && job == ACQUIRE && stage == 0 ->   /* Ledger._acquire */
     d_step { replay(rep[g]); how = out[pending[g]] };
     if
     :: how > 0 -> how = 0; stage = WRITTEN; goto cosign     /* it was written after all */
     :: how > 0 ->                                 /* more than is wanted now: given up */
        how = 0; owed[pending[g]] = 1;
        pending[g] = (mutant == 15 -> pending[g] : 0);
        goto settlements
     :: how == 0 -> goto settlements
     fi
  fi
}

/* Denied: the next job starts from what is known now; a gate that cannot start tries again */
inline refuse(g) {
  how = 0; was = 0;
  if
  :: job == BOOT -> goto boot
  :: job != BOOT -> job = 0; stage = 0; goto idle
  fi
}

proctype Gate(byte g) {
  byte job, stage, was, how, n;

  atomic { stale[g] = false; cosigned[g] = 0; goto idle };   /* the log is empty, and known */

boot:                                              /* Ledger.open, recover_dead_leases */
  atomic {
    job = BOOT;
    d_step { forget(g); stage = 0; was = 0; how = 0; n = 0 };
    goto read
  };

idle:
end:
  atomic {
    if
    :: (pending[g] != 0 || drawn[g] < TRIES) && n < held_at_once -> job = ACQUIRE
    :: live[ID(g, 0)] -> settle(ID(g, 0)); n--; job = SETTLING
#if TRIES > 1
    :: live[ID(g, 1)] -> settle(ID(g, 1)); n--; job = SETTLING
#endif
#if TRIES > 2
    :: live[ID(g, 2)] -> settle(ID(g, 2)); n--; job = SETTLING
#endif
#if TRIES > 1
    :: owed[ID(g, 0)] + owed[ID(g, 1)] > 0 -> job = SETTLING
#endif
    :: MAY(CLOSES) && !stale[g] && pending[g] != 0 ->
       faults++; owed[pending[g]] = 1; job = CLOSE; goto settlements
    MAY_CRASH
    fi;
    go_on(g)
  };

read:                                              /* Replica.reload */
  atomic {
    d_step { reload(g); how = ok };
    if
    :: how -> how = 0; go_on(g)
    :: !how -> refuse(g)
    fi
  };

ask:                                               /* Session._compare: the question */
  atomic {
    if
    :: d_step { true -> copy(ans[g], wit) }
    :: d_step { mutant == 10 && wit.size > 0 -> copy(ans[g], wit); cut(ans[g], wit.size - 1) }
    fi;
    goto answer
  };

answer:                                            /* and its answer */
  atomic {
    d_step {
      ok = true;
      if
      :: ans[g].size > rep[g].size -> reload(g)    /* another process may have appended */
      :: else
      fi;
      if
      :: ok ->
         prefix(ans[g], rep[g]);
         if
         :: mutant == 4 -> ok = true
         :: mutant == 6 -> ok = (ans[g].size <= rep[g].size)
         :: else
         fi
      :: else
      fi;
      if
      :: ok -> cosigned[g] = ans[g].size
      :: else
      fi;
      how = ok; cut(ans[g], 0)
    };
    if
    :: how -> how = 0; go_on(g)
    :: !how -> refuse(g)
    fi
  };

dead:                                              /* Ledger.recover_dead_leases */
  atomic {
    d_step {
      was = rep[g].size; replay(rep[g]); y = 1;
      do
      :: y < IDS ->
         if
         :: MINE(g, y) && out[y] > 0 && rep[g].size < N ->
            z = (mutant == 7 -> LEAF(SETTLE, y, 0) : LEAF(DEAD, y, 0));
            push(rep[g], z)
         :: else
         fi;
         y++
      :: else -> break
      od;
      y = 0
    };
    if
    :: was == rep[g].size -> job = 0; was = 0; goto idle
    :: else
    fi;
    fate_of_append();
    append(g);
    was = 0;
    if
    :: how == FINE -> job = 0; goto idle
    :: how == TWICE -> how = 0; go_on(g)
    :: how == LOST -> refuse(g)
    fi
  };

settlements:                                       /* Owed.write */
  atomic {
    d_step {
      was = rep[g].size; replay(rep[g]); y = 1;
      do
      :: y < IDS ->
         if
         :: MINE(g, y) && owed[y] > 0 && rep[g].size < N &&
            (out[y] > 0 || (mutant == 11 && held[y] > 0)) ->
            push(rep[g], LEAF(SETTLE, y, owed[y] - 1))
         :: else
         fi;
         y++
      :: else -> break
      od;
      y = 0
    };
    if
    :: was == rep[g].size -> how = FINE
    :: else -> fate_of_append(); append(g)
    fi;
    was = 0;
    if
    :: how == FINE ->
       d_step {
         y = 1;
         do
         :: y < IDS ->
            if
            :: MINE(g, y) -> owed[y] = 0
            :: else
            fi;
            y++
         :: else -> break
         od;
         y = 0
       };
       if
       :: job == SETTLING -> job = 0; goto idle
       :: job == CLOSE -> goto boot
       :: job == ACQUIRE && drawn[g] < TRIES ->
          drawn[g]++; pending[g] = ID(g, drawn[g] - 1); stage = DRAWN; goto lease
       :: job == ACQUIRE && drawn[g] == TRIES -> pending[g] = 0; job = 0; stage = 0; goto idle
       fi
    :: how == TWICE && job != CLOSE -> how = 0; go_on(g)
    :: how == LOST && job != CLOSE -> how = 0; refuse(g)
    :: how != FINE && job == CLOSE -> how = 0; goto boot
    fi
  };

lease:                                             /* Ledger._write_lease */
  atomic {
    d_step {
      was = rep[g].size; replay(rep[g]);
      how = (com >= budget -> 0 : budget - com);
      if
      :: rep[g].size == N -> how = 0
      :: else
      fi
    };
    if
    :: how == 0 -> was = 0; pending[g] = 0; job = 0; stage = 0; goto idle  /* depleted */
    :: how >= 1 -> size[pending[g]] = 1
    :: how >= 2 && want >= 2 -> size[pending[g]] = 2
    :: how >= 3 && want >= 3 -> size[pending[g]] = 3
    fi;
    d_step { push(rep[g], LEAF(LEASE, pending[g], size[pending[g]])) };
    fate_of_append();
    append(g);
    was = 0;
    if
    :: how == FINE && mutant != 3 -> stage = WRITTEN; goto cosign
    :: how == FINE && mutant == 3 -> stage = WRITTEN; goto grant
    :: how == TWICE -> how = 0; go_on(g)
    :: how == LOST && mutant != 2 -> refuse(g)
    :: how == LOST && mutant == 2 -> how = 0; stage = WRITTEN; goto grant
    fi
  };

cosign:                                            /* Session.cosign */
  atomic {
    if
    :: cosigned[g] >= rep[g].size -> how = 1
    MAY_CRASH
    :: cosigned[g] < rep[g].size ->
       fate_of_cosign();
       d_step {
         left_ = 3;                                /* no answer */
         if
         :: how == LATE || how == TWICE -> copy(cosign_, rep[g]); cosign_old = cosigned[g]
         :: else
         fi;
         if
         :: how == FINE || how == UNHEARD || how == TWICE ->
            ask_cosign(cosigned[g], rep[g]);
            left_ = (how == UNHEARD -> 3 : left_)
         :: else
         fi;
         printf("gate %d: cosign from %d, fate %d: %d\n", g, cosigned[g], how, left_);
         how = left_;
         if
         :: how == 1 -> cosigned[g] = rep[g].size
         :: else -> cosigned[g] = ASK              /* distrust, or _compare */
         fi
       }
    fi;
    if
    :: how == 1 -> how = 0; goto grant
    :: how == 2 -> how = 0; go_on(g)               /* compare, then try again */
    :: how == 0 || how == 3 -> how = 0; refuse(g)
    fi
  };

grant:                                             /* acquire returns the lease, if it still is one */
  atomic {
    if
    :: d_step { true -> replay(rep[g]); how = (out[pending[g]] > 0 || mutant == 2 || mutant == 5 || mutant == 17) }
    MAY_CRASH
    fi;
    if
    :: how ->
       d_step {
         printf("gate %d has %d\n", g, pending[g]);
         live[pending[g]] = true;
         assert(!late[pending[g]]);                /* a store behind its witness grants nothing */
         assert(sent[pending[g]] == 0);
         n++; how = 0
       }
    :: !how
    fi;
    pending[g] = 0; job = 0; stage = 0; goto idle
  }
}

/* the store's file is replaced by an older one, or by one that was replaced before; gates run */
active proctype Restore() {
  byte count;
end:
  do
  :: atomic {
       MAY(RESTORES) && store.size > 0 ->
       faults++;
       count = store.size - 1;
       do
       :: count > 0 -> count--
       :: break
       od;
       d_step {
         copy(kept, store); kept_torn = torn;
         cut(store, count); count = 0; rolled = true; torn = false;
         printf("store restored:"); print_log(store)
       }
     }
  :: atomic {
       MAY(RESTORES) && kept.size > 0 ->
       faults++;
       d_step { copy(store, kept); torn = kept_torn; rolled = true }
     }
  od
}

/* narrows ledger recover: propose, sign, append, have it accepted; gates run */
active proctype Operator() {
  Log base, given;
  byte gap;
end:
  do
  :: atomic {                                      /* admin.find_gap: signed as it is */
       (kinds & RECOVERIES) != 0 && gap == 0 && rolled && !torn && store.size < N ->
       d_step {
         prefix(wit, store)
       };
       d_step {
         copy(base, store); copy(given, wit);
         replay(store); left_ = com;
         replay(wit);
         gap = (com > left_ -> com - left_ : 0);
         gap = (mutant == 14 -> 0 : gap);
         gap++                                     /* 0: nothing is proposed */
       }
     }
  :: atomic {                                      /* admin.recover: append */
       gap > 0 && store.size == base.size && !torn ->
       d_step {
         prefix(base, store);
         if
         :: ok -> push(store, LEAF(RECOVER, 0, gap - 1))
         :: else
         fi
       }
     }
  :: atomic {                                      /* Witness.recover */
       gap > 0 && !torn && wit.size == given.size && store.size > base.size &&
       store.leaf[base.size] == LEAF(RECOVER, 0, gap - 1) ->
       d_step {
         prefix(base, store); left_ = ok;
         prefix(given, wit); left_ = (ok -> left_ : 0);
         replay(wit); z = com;
         replay(store);
         if
         :: left_ && (com >= z || mutant == 14) ->
            printf("recovered\n"); adopt(store); cut(base, 0); cut(given, 0); gap = 0; x = 0;
            do
            :: x < wit.size ->
               if
               :: KIND(wit.leaf[x]) == LEASE -> late[LEASE_OF(wit.leaf[x])] = false
               :: else
               fi;
               x++
            :: else -> break
            od
         :: else
         fi
       }
     }
  od
}

init {
  atomic {
    c_code {
      now.budget = atoi(getenv("BUDGET")); now.want = atoi(getenv("WANT"));
      now.held_at_once = atoi(getenv("HELD")); now.max_faults = atoi(getenv("FAULTS"));
      now.kinds = atoi(getenv("KINDS")); now.mutant = atoi(getenv("MUTANT"));
    };
    byte g = 0;
    do
    :: g < GATES -> run Gate(g); g++
    :: else -> break
    od
  }
}
