/* Credits of a net budget: what src/narrows/ledger/net.py and rules.py do to them.
 * See docs/lease-protocol.md, "Credits".
 *
 * One lineage, one gate, two auditors who are enrolled in turn (epoch 1, epoch 2). The ledger is
 * what its leaves say; a restore puts an older one in its place, a recovery accepts that. An
 * enrolled auditor is honest: it signs, once for each lease, what it can explain of the bytes
 * that left, dead leases included. Whoever carries its credits delivers them late, twice, in any
 * order, after a rollback. An auditor that was revoked may sign anything. With TAKEN set every
 * auditor may.
 */

#ifndef LEASES
#define LEASES 3
#endif
#ifndef SIZE
#define SIZE 2             /* a lease has 1..SIZE bytes */
#endif

byte raw_cap, net_cap;
byte mutant;               /* 0: as the code is; others: see spin/check.py */
bool taken;                /* every auditor is the thief's */

#define FREE 0
#define OUT 1
#define SETTLED 2
#define ENDED 3            /* dead: counted in full */

typedef Ledger {
  byte st[LEASES];
  byte amount[LEASES];     /* held, then what was counted */
  bool can[LEASES];        /* may be credited */
  byte given[LEASES];      /* the oracle's: what was credited; no step reads it */
  byte pos, total;         /* of the epoch's chain */
  byte epoch;              /* 0: nobody is enrolled */
  byte raw, raw_out, net, net_out;
};

Ledger led, kept;
bool has_kept;
byte restores, gap;

/* the world's: no restore undoes them */
byte left_[LEASES];        /* bytes that left */
byte plain[LEASES];        /* of these, what an honest auditor explains */
bool drawn[LEASES];
bool revoked[3];
/* credits that an auditor signed, by epoch and lease */
bool has_signed[3 * LEASES];
byte m_prev[3 * LEASES], m_pos[3 * LEASES], m_amount[3 * LEASES];
byte a_pos[3], a_total[3];

hidden byte x, y;
byte k, l, n;

inline copy(to, from) {
  x = 0;
  do
  :: x < LEASES ->
     to.st[x] = from.st[x]; to.amount[x] = from.amount[x]; to.can[x] = from.can[x];
     to.given[x] = from.given[x]; x++
  :: else -> break
  od;
  to.pos = from.pos; to.total = from.total; to.epoch = from.epoch;
  to.raw = from.raw; to.raw_out = from.raw_out; to.net = from.net; to.net_out = from.net_out
}

inline pick(v, low, high) { v = low; do :: v < high -> v++ :: break od }

/* a leaf of kind credit: refused, or applied as a whole */
inline credit(epoch_, lease_, prev_, pos_, amount_) {
  if
  :: (led.epoch == epoch_ || (mutant == 3 && epoch_ != 0)) &&
     ((pos_ > led.pos && prev_ == led.total) || mutant == 1) &&
     (led.can[lease_] || (mutant == 2 && led.st[lease_] == ENDED) ||
                         (mutant == 4 && led.st[lease_] == OUT)) &&
     (amount_ <= led.amount[lease_] || mutant == 9) ->
       if
       :: mutant == 1 || mutant == 10 -> skip   /* the lease stays on the list */
       :: else -> led.can[lease_] = false
       fi;
       led.pos = pos_; led.total = prev_ + amount_;
       if
       :: amount_ <= led.net -> led.net = led.net - amount_
       :: else -> led.net = 0
       fi;
       if
       :: mutant == 6 -> led.raw = led.raw - (amount_ < led.raw -> amount_ : led.raw)
       :: else
       fi;
       led.given[lease_] = led.given[lease_] + amount_;
       assert(led.st[lease_] == SETTLED);        /* none dead, none outstanding */
       assert(led.given[lease_] <= led.amount[lease_])   /* once, and no more than it cost */
  :: else
  fi
}

inline check() {
  x = 0; y = 0; n = 0;
  do
  :: x < LEASES -> y = y + left_[x]; n = n + left_[x] - plain[x]; x++
  :: else -> break
  od;
  assert(y <= raw_cap);                          /* whatever the auditors do */
  assert(taken || n <= net_cap);                 /* what nobody could explain */
  assert(led.net + led.net_out <= led.raw + led.raw_out);
  x = 0; n = 0
}

active proctype World() {
  raw_cap > 0;
  do
  :: atomic {                                    /* a lease, its bytes, its end */
       pick(l, 0, LEASES - 1);
       if
       :: led.st[l] == FREE && !drawn[l] ->
          n = 1; do :: n < SIZE -> n++ :: break od;
          if
          :: led.raw + led.raw_out + n <= raw_cap && led.net + led.net_out + n <= net_cap ->
             led.st[l] = OUT; led.amount[l] = n; drawn[l] = true;
             led.raw_out = led.raw_out + n; led.net_out = led.net_out + n
          :: else
          fi
       :: led.st[l] == OUT && left_[l] < led.amount[l] ->
          left_[l]++;
          if :: plain[l]++ :: skip fi;           /* explained, or the thief's */
          check()
       :: led.st[l] == OUT ->                    /* settled: what left counts, the rest returns */
          led.raw_out = led.raw_out - led.amount[l]; led.net_out = led.net_out - led.amount[l];
          if
          :: led.amount[l] = left_[l]; led.st[l] = SETTLED;
             led.can[l] = (led.epoch != 0 && left_[l] > 0)
          :: led.st[l] = ENDED                   /* the gate died: all of it counts */
          fi;
          led.raw = led.raw + led.amount[l]; led.net = led.net + led.amount[l]
       :: else
       fi; n = 0; l = 0
     }
  :: atomic {                                    /* an honest auditor signs what it explains */
       pick(k, 1, 2); pick(l, 0, LEASES - 1);
       if
       :: !has_signed[k * LEASES + l] && plain[l] > 0 && !revoked[k] ->
          has_signed[k * LEASES + l] = true;
          m_prev[k * LEASES + l] = a_total[k]; m_amount[k * LEASES + l] = plain[l];
          a_pos[k]++; m_pos[k * LEASES + l] = a_pos[k];
          a_total[k] = a_total[k] + plain[l]
       :: else
       fi; k = 0; l = 0
     }
  :: atomic {                                    /* someone delivers a credit, at any time again */
       pick(k, 1, 2); pick(l, 0, LEASES - 1);
       if
       :: has_signed[k * LEASES + l] ->
          credit(k, l, m_prev[k * LEASES + l], m_pos[k * LEASES + l], m_amount[k * LEASES + l])
       :: else
       fi; k = 0; l = 0
     }
  :: atomic {                                    /* one who was revoked, or is the thief's */
       pick(k, 1, 2); pick(l, 0, LEASES - 1);
       if
       :: revoked[k] || taken -> credit(k, l, led.total, led.pos + 1, SIZE)
       :: else
       fi; k = 0; l = 0
     }
  :: atomic {                                    /* people: enrol the next, or revoke */
       if
       :: led.epoch < 2 && !revoked[led.epoch + 1] ->
          led.epoch++; led.pos = 0; led.total = 0; l = 0;
          do
          :: l < LEASES ->
             led.can[l] = (mutant == 7 && led.st[l] == SETTLED); l++
          :: else -> break
          od
       :: led.epoch != 0 ->
          revoked[led.epoch] = true; led.epoch = 0; l = 0;
          do :: l < LEASES -> led.can[l] = false; l++ :: else -> break od
       fi; l = 0
     }
  :: atomic { !has_kept -> copy(kept, led); has_kept = true }
  :: atomic {                                    /* the older file, and k operators accept it */
       has_kept && restores < 1 ->
       gap = 0;
       if
       :: led.raw + led.raw_out > kept.raw + kept.raw_out ->
          gap = led.raw + led.raw_out - kept.raw - kept.raw_out
       :: else
       fi;
       copy(led, kept); restores++; l = 0;
       do
       :: l < LEASES ->
          if
          :: led.st[l] == OUT ->
             led.st[l] = ENDED;
             led.raw_out = led.raw_out - led.amount[l]; led.net_out = led.net_out - led.amount[l];
             led.raw = led.raw + led.amount[l]; led.net = led.net + led.amount[l]
          :: else
          fi; l++
       :: else -> break
       od;
       led.raw = led.raw + gap;
       if :: mutant == 5 :: else -> led.net = led.net + gap fi;
       if
       :: mutant == 8
       :: else -> led.epoch = 0; l = 0;
          do :: l < LEASES -> led.can[l] = false; l++ :: else -> break od
       fi; l = 0; gap = 0
     }
  :: break
  od
}

init {
  atomic {
    c_code { now.raw_cap = atoi(getenv("BUDGET")); now.net_cap = atoi(getenv("WANT"));
             now.mutant = atoi(getenv("MUTANT")); now.taken = atoi(getenv("FAULTS")); };
  }
}
