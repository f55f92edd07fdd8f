/* Rolling windows: what src/narrows/ledger/limits.py counts against what really left when.
 *
 * The ledger is one step here (lease.pml is about the rest); time is what matters. Real time goes
 * in ticks; ledger time is read from a clock that stands still in some of them, never catches up.
 */

#ifndef GATES
#define GATES 2
#endif
#ifndef TICKS
#define TICKS 7
#endif
#define LENGTH 2           /* ticks of the window */

byte budget;               /* the cap of the window */
byte want;
byte held_at_once, max_faults, kinds;              /* faults: gates that die */
byte mutant;

byte real;                 /* real time */
byte clock;                /* CLOCK_BOOTTIME of the machine */
byte log_time;             /* State.time_ms */
byte settled[TICKS + 1];   /* Window.entries: bytes by the ledger time of their settlement */
byte outstanding;
byte faults;
byte left_at[TICKS + 1];   /* the oracle's: bytes by the real time at which they left */

hidden byte x, sum;

/* Ledger time of a gate: State.clamp. Mutant 1: gates on machines whose clocks differ by a tick */
inline read_time(g) {
  log_time = (clock > log_time -> clock : log_time);
  time = log_time;
  if
  :: mutant == 1 && g == 1 -> time = (clock > 0 -> clock - 1 : 0)
  :: else
  fi
}

/* BudgetMeter.room at ``time``. Mutant 2: a window forgets a tick too early */
inline room() {
  sum = (mutant == 3 -> 0 : outstanding); x = 0;
  do
  :: x <= TICKS ->
     if
     :: x + LENGTH > time + (mutant == 2) -> sum = sum + settled[x]
     :: else
     fi;
     x++
  :: else -> break
  od;
  free = (sum >= budget -> 0 : budget - sum)
}

inline oracle() {
  sum = 0; x = 0;
  do
  :: x <= real ->
     if
     :: x + LENGTH > real -> sum = sum + left_at[x]
     :: else
     fi;
     x++
  :: else -> break
  od;
  assert(sum <= budget)
}

/* BudgetMeter.settle. Mutant 4: dated by the lease, not by its end */
inline settle(bytes) {
  read_time(g);
  time = (mutant == 4 -> since : time);
  settled[time] = settled[time] + bytes;
  outstanding = outstanding - size;
  size = 0; left = 0; since = 0; time = 0
}

proctype Gate(byte g) {
  byte size, left, since, time, free;
  bool dead;

end:
  do
  :: atomic { size == 0 ->
       d_step { read_time(g); room() };
       if
       :: free >= 1 -> size = 1
       :: free >= 2 && want >= 2 -> size = 2
       :: free >= 3 && want >= 3 -> size = 3
       :: free == 0
       fi;
       d_step { left = size; outstanding = outstanding + size; free = 0;
                since = (size > 0 -> time : 0); time = 0 }
     }
  :: d_step { left > 0 && !dead -> left--; left_at[real]++; oracle() }
  :: d_step { size > 0 && !dead -> settle(size - left) }
  :: d_step { size > 0 && !dead && faults < max_faults -> faults++; dead = true; left = 0 }
  :: d_step { dead -> dead = false; settle(size) } /* recover_dead_leases: all of it, now */
  od
}

active proctype Time() {
end:
  do
  :: d_step { real < TICKS -> real++; clock++ }
  :: real < TICKS -> real++                        /* it stood still */
  :: mutant == 5 && clock < real -> clock++        /* and catches up */
  od
}

init {
  atomic {
    c_code {
      now.budget = atoi(getenv("BUDGET")); now.want = atoi(getenv("WANT"));
      now.max_faults = atoi(getenv("FAULTS")); now.mutant = atoi(getenv("MUTANT"));
    };
    byte g = 0;
    do
    :: g < GATES -> run Gate(g); g++
    :: else -> break
    od
  }
}
