// SPDX-License-Identifier: GPL-2.0-only
/*
 * Random operations on guest_memfds, by several threads at once.
 *
 * On some files every operation has one right outcome, told by a model, and
 * state and content are the model's at any time.  On others there is no order
 * at all, and what comes out has to be legal.  The rooms:
 *
 *	guest_memfd_fuzz_model.h	what a file must look like
 *	guest_memfd_fuzz.h		threads, books, access, the guest
 *	guest_memfd_fuzz_exact.h	operations with a model: pages, mappings
 *	guest_memfd_fuzz_exact_convert.h  ... conversions, held pages
 *	guest_memfd_fuzz_exact_file.h	... holes, broken pages, files
 *	guest_memfd_fuzz_exact_vm.h	... memslots, guests
 *	guest_memfd_fuzz_chaos.h	operations without: pages, mappings
 *	guest_memfd_fuzz_chaos_vm.h	... files, memslots, guests
 *
 * What a thread does is a function of the seed and its number; with one thread
 * a run can be replayed exactly.
 *
 * With GUEST_MEMFD_BLOCK the files are of huge blocks, which stay broken if one
 * of their pages was: then the pool must have lost no others at the end.
 */
#include <getopt.h>
#include <time.h>

#include "guest_memfd_fuzz.h"
#include "guest_memfd_fuzz_exact_vm.h"
#include "guest_memfd_fuzz_chaos_vm.h"

#define MAX_SEEDS	8
/* From so many on it would be strange if something had never happened. */
#define ENOUGH_OPS	6000
/* Without any operation done by any of the threads. */
#define STUCK_SECONDS	60

struct phase {
	const char *test;
	const struct fuzz_op *ops;
	unsigned int nr_ops;
	void (*setup)(u64 *seed);
	void (*finish)(void);
};

static const struct phase phases[] = {
	{
		.test = "exact_model_holds",
		.ops = exact_ops,
		.nr_ops = ARRAY_SIZE(exact_ops),
		.setup = exact_setup,
		.finish = exact_finish,
	},
	{
		.test = "chaos_gives_legal_outcomes",
		.ops = chaos_ops,
		.nr_ops = ARRAY_SIZE(chaos_ops),
		.setup = chaos_setup,
		.finish = chaos_finish,
	},
};

/* Of all seeds: has everything been seen, and what did it cost? */
static u64 counts[ARRAY_SIZE(phases)][FUZZ_MAX_OPS][NR_OUTCOMES];
static double seconds[ARRAY_SIZE(phases)][FUZZ_MAX_OPS];

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/*
 * A thread
 */

/* Each operation once by each thread, not all at the same time, then by weight. */
static const struct fuzz_op *pick_op(const struct fuzz_thread *t, u64 r)
{
	u64 sum = 0;
	unsigned int i;

	for (i = 0; i < fuzz.nr_ops; i++)
		sum += fuzz.ops[i].weight;
	if (t->nr_ops < fuzz.nr_ops)
		return &fuzz.ops[(t->nr_ops + 7 * t->index) % fuzz.nr_ops];

	r %= sum;
	for (i = 0; r >= fuzz.ops[i].weight; i++)
		r -= fuzz.ops[i].weight;
	return &fuzz.ops[i];
}

/* All draws come first, so that no outcome changes what is done next. */
static void do_one_op(struct fuzz_thread *t)
{
	u64 r[FUZZ_DRAWS];
	unsigned int i;
	double start;

	t->now = (struct fuzz_event) {
		.nr = t->nr_ops,
		.op = pick_op(t, model_random(&t->seed) >> 16),
		.file = -1,
		.outcome = NR_OUTCOMES,
	};
	for (i = 0; i < FUZZ_DRAWS; i++)
		r[i] = model_random(&t->seed);

	start = now();
	t->now.outcome = t->now.op->run(t, r);
	t->seconds[t->now.op - fuzz.ops] += now() - start;
	t->counts[t->now.op - fuzz.ops][t->now.outcome]++;
	t->history[t->nr_ops % FUZZ_HISTORY] = t->now;
	__atomic_store_n(&t->nr_ops, t->nr_ops + 1, __ATOMIC_RELEASE);
}

/* However slow the machine is, each operation is tried. */
static bool goes_on(const struct fuzz_thread *t)
{
	if (fuzz.max_ops && t->nr_ops >= fuzz.max_ops)
		return false;
	if (!READ_ONCE(fuzz.stop))
		return true;
	return !READ_ONCE(fuzz.failed) && t->nr_ops < fuzz.nr_ops;
}

static void *run_thread(void *arg)
{
	struct fuzz_thread *t = arg;

	while (goes_on(t))
		do_one_op(t);
	t->now.op = NULL;
	chaos_reap(t, 0);
	return NULL;
}

static void init_thread(struct fuzz_thread *t, unsigned int index, u64 seed)
{
	gva_t mailbox = (gva_t)&fuzz_mailboxes[index];

	memset(t, 0, sizeof(*t));
	t->index = index;
	t->seed = (seed ^ (index + 1) * 0x9e3779b97f4a7c15ull) ?: 1;
	model_random(&t->seed);
	TEST_ASSERT(!pipe(t->pipe) && !pipe(t->hold_pipe), "pipe() failed");
	t->mailbox = addr_gva2hva(fuzz.vm, mailbox);
	t->history = calloc(FUZZ_HISTORY, sizeof(*t->history));
	TEST_ASSERT(t->history, "No memory");
}

static void init_vcpu(struct fuzz_thread *t, struct kvm_vcpu *vcpu)
{
	t->vcpu = vcpu;
	vcpu_args_set(vcpu, 1, (gva_t)&fuzz_mailboxes[t->index]);
	vcpu_regs_get(vcpu, &t->regs);
	vcpu_sregs_get(vcpu, &t->sregs);
}

static void destroy_thread(struct fuzz_thread *t)
{
	close(t->pipe[0]);
	close(t->pipe[1]);
	close(t->hold_pipe[0]);
	close(t->hold_pipe[1]);
	free(t->history);
}

/*
 * A phase
 */

#define NR_AREAS	(EXACT_FILES * EXACT_SLOTS_PER_FILE * EXACT_AREAS_PER_SLOT)

static void create_vm(void)
{
	const struct vm_shape shape = {
		.mode = VM_MODE_DEFAULT,
		.type = KVM_X86_SW_PROTECTED_VM,
	};
	struct kvm_vcpu *vcpus[FUZZ_MAX_THREADS];
	unsigned int i;

	/* The extra pages are for the page tables of the areas. */
	fuzz.vm = __vm_create_with_vcpus(shape, fuzz.nr_threads, 1024, fuzz_guest, vcpus);
	virt_map(fuzz.vm, FUZZ_AREA_GPA(0), FUZZ_AREA_GPA(0), NR_AREAS * FUZZ_AREA_PAGES);
	for (i = 0; i < fuzz.nr_threads; i++) {
		init_thread(&fuzz.threads[i], i, fuzz.seed);
		init_vcpu(&fuzz.threads[i], vcpus[i]);
	}
	fuzz_remember_memory();
}

static u64 ops_done(void)
{
	unsigned int i;
	u64 sum = 0;

	for (i = 0; i < fuzz.nr_threads; i++)
		sum += __atomic_load_n(&fuzz.threads[i].nr_ops, __ATOMIC_ACQUIRE);
	return sum;
}

/* A thread that hangs cannot be joined: say where it is and give up. */
static void bail_out_stuck(void)
{
	unsigned int i;

	ksft_print_msg("%s: seed %lu: nothing moves any more\n", fuzz.phase, fuzz.seed);
	for (i = 0; i < fuzz.nr_threads; i++)
		if (fuzz.threads[i].now.op)
			fuzz_show_event(&fuzz.threads[i].now);
	ksft_test_result_fail("%s seed %lu\n", fuzz.phase, fuzz.seed);
	_exit(KSFT_FAIL);
}

static bool all_at_max_ops(void)
{
	unsigned int i;

	for (i = 0; i < fuzz.nr_threads; i++)
		if (!fuzz.max_ops || READ_ONCE(fuzz.threads[i].nr_ops) < fuzz.max_ops)
			return false;
	return true;
}

static void watch(double end)
{
	double moved = now();
	u64 done = 0;

	for (;;) {
		usleep(20000);
		if (now() >= end || all_at_max_ops())
			WRITE_ONCE(fuzz.stop, true);
		if (ops_done() != done) {
			done = ops_done();
			moved = now();
		} else if (READ_ONCE(fuzz.stop)) {
			return;
		} else if (now() - moved > STUCK_SECONDS) {
			bail_out_stuck();
		}
	}
}

static void join_threads(void)
{
	struct timespec ts;
	unsigned int i;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += STUCK_SECONDS;
	for (i = 0; i < fuzz.nr_threads; i++)
		if (pthread_timedjoin_np(fuzz.threads[i].pthread, NULL, &ts))
			bail_out_stuck();
}

static void add_counts(unsigned int phase)
{
	unsigned int i, op, outcome;

	for (i = 0; i < fuzz.nr_threads; i++) {
		for (op = 0; op < fuzz.nr_ops; op++) {
			seconds[phase][op] += fuzz.threads[i].seconds[op];
			for (outcome = 0; outcome < NR_OUTCOMES; outcome++)
				counts[phase][op][outcome] += fuzz.threads[i].counts[op][outcome];
		}
	}
}

static bool run_phase(unsigned int nr, double duration)
{
	const struct phase *phase = &phases[nr];
	u64 seed = fuzz.seed ^ nr ?: 1;
	double start;
	unsigned int i;

	fuzz.phase = phase->test;
	fuzz.ops = phase->ops;
	fuzz.nr_ops = phase->nr_ops;
	fuzz.nr_poisons = 0;
	fuzz.stop = false;
	fuzz.failed = false;

	model_random(&seed);
	create_vm();
	phase->setup(&seed);

	start = now();
	for (i = 0; i < fuzz.nr_threads; i++)
		kvm_pthread_create(&fuzz.threads[i].pthread, NULL, run_thread, &fuzz.threads[i]);
	watch(start + duration);
	join_threads();
	ksft_print_msg("%s: seed %lu: %lu operations, %.0f a second\n", phase->test, fuzz.seed,
		       ops_done(), ops_done() / (now() - start));

	phase->finish();
	add_counts(nr);
	for (i = 0; i < fuzz.nr_threads; i++)
		destroy_thread(&fuzz.threads[i]);
	fuzz_forget_memory();
	kvm_vm_free(fuzz.vm);
	return !fuzz.failed;
}

/*
 * Has everything been tried, and has everything happened?
 */

static u64 count_op(unsigned int phase, unsigned int op)
{
	unsigned int outcome;
	u64 sum = 0;

	for (outcome = 0; outcome < OUT_SKIPPED; outcome++)
		sum += counts[phase][op][outcome];
	return sum;
}

static void show_op(unsigned int phase, unsigned int op)
{
	unsigned int outcome;
	char line[256];
	int len;

	len = snprintf(line, sizeof(line), "%s %-14s %6.1f s:", phase ? "chaos" : "exact",
		       phases[phase].ops[op].name, seconds[phase][op]);
	for (outcome = 0; outcome < NR_OUTCOMES; outcome++)
		if (counts[phase][op][outcome])
			len += snprintf(line + len, sizeof(line) - len, " %s %lu",
					fuzz_outcome_names[outcome], counts[phase][op][outcome]);
	ksft_print_msg("%s\n", line);
}

static void show_all(void)
{
	unsigned int phase, op;

	for (phase = 0; phase < ARRAY_SIZE(phases); phase++)
		for (op = 0; op < phases[phase].nr_ops; op++)
			show_op(phase, op);
}

static bool is_optional(const char *op)
{
	return !fuzz.max_poisons && !strcmp(op, "poison");
}

static bool all_ops_ran(void)
{
	unsigned int phase, op;
	bool ok = true;

	for (phase = 0; phase < ARRAY_SIZE(phases); phase++) {
		for (op = 0; op < phases[phase].nr_ops; op++) {
			if (!count_op(phase, op) && !is_optional(phases[phase].ops[op].name))
				ok = false;
		}
	}

	return ok;
}

static bool all_outcomes_seen(void)
{
	unsigned int phase, op, outcome;
	bool ok = true;
	u64 sum;

	for (outcome = 0; outcome < OUT_OTHER; outcome++) {
		for (sum = 0, phase = 0; phase < ARRAY_SIZE(phases); phase++)
			for (op = 0; op < phases[phase].nr_ops; op++)
				sum += counts[phase][op][outcome];
		if (sum || (outcome == OUT_EHWPOISON && !fuzz.max_poisons))
			continue;
		ksft_print_msg("never seen: %s\n", fuzz_outcome_names[outcome]);
		ok = false;
	}

	return ok;
}

static bool enough_ops_ran(void)
{
	unsigned int phase, op;
	u64 sum = 0;

	for (phase = 0; phase < ARRAY_SIZE(phases); phase++)
		for (op = 0; op < phases[phase].nr_ops; op++)
			sum += count_op(phase, op);

	return sum >= ENOUGH_OPS;
}

static u64 random_seed(void)
{
	int fd = open_path_or_exit("/dev/urandom", O_RDONLY);
	u32 seed;

	TEST_ASSERT(read(fd, &seed, sizeof(seed)) == sizeof(seed), "Cannot read /dev/urandom");
	close(fd);
	return seed;
}

static void __noreturn help(const char *name)
{
	printf("usage: %s [-s SEED]... [-d SECONDS] [-t THREADS] [-n OPS] [-p POISONS]\n\n"
	       "  -s  seed; may be repeated, the time is shared (default: random)\n"
	       "  -d  seconds in all (default: 10)\n"
	       "  -t  threads (default: 4)\n"
	       "  -n  operations of each thread, at most (default: no limit)\n"
	       "  -p  pages to break by memory failure, at most (default: 2)\n", name);
	exit(KSFT_FAIL);
}

int main(int argc, char *argv[])
{
	u64 seeds[MAX_SEEDS];
	unsigned int nr_seeds = 0, i, phase;
	int opt;

	BUILD_BUG_ON(ARRAY_SIZE(exact_ops) > FUZZ_MAX_OPS);
	BUILD_BUG_ON(ARRAY_SIZE(chaos_ops) > FUZZ_MAX_OPS);

	fuzz.seconds = 10;
	fuzz.nr_threads = 4;
	fuzz.max_poisons = 2;
	while ((opt = getopt(argc, argv, "s:d:t:n:p:")) != -1) {
		if (opt == 's' && nr_seeds < MAX_SEEDS)
			seeds[nr_seeds++] = strtoull(optarg, NULL, 0);
		else if (opt == 'd')
			fuzz.seconds = atof(optarg);
		else if (opt == 't')
			fuzz.nr_threads = atoi_positive("threads", optarg);
		else if (opt == 'n')
			fuzz.max_ops = strtoull(optarg, NULL, 0);
		else if (opt == 'p')
			fuzz.max_poisons = atoi_non_negative("poisons", optarg);
		else
			help(argv[0]);
	}
	if (fuzz.nr_threads > FUZZ_MAX_THREADS)
		help(argv[0]);
	if (!nr_seeds)
		seeds[nr_seeds++] = random_seed();

	ksft_print_header();
	TEST_REQUIRE(kvm_check_cap(KVM_CAP_VM_TYPES) & BIT(KVM_X86_SW_PROTECTED_VM));
	ksft_set_plan(nr_seeds * ARRAY_SIZE(phases) + (fuzz.max_ops ? 0 : 2));
	fuzz_catch_sigbus();
	gmem_check_pool_at_exit();

	for (i = 0; i < nr_seeds; i++) {
		fuzz.seed = seeds[i];
		ksft_print_msg("to replay: %s -s %lu -d %g -t %u -n %lu -p %u\n", argv[0],
			       fuzz.seed, fuzz.seconds / nr_seeds, fuzz.nr_threads, fuzz.max_ops,
			       fuzz.max_poisons);
		for (phase = 0; phase < ARRAY_SIZE(phases); phase++)
			ksft_test_result(run_phase(phase, fuzz.seconds / nr_seeds /
						   ARRAY_SIZE(phases)),
					 "%s seed %lu\n", phases[phase].test, fuzz.seed);
	}

	show_all();
	if (!fuzz.max_ops && !enough_ops_ran()) {
		ksft_test_result_skip("every_kind_of_operation_ran: the machine is slow\n");
		ksft_test_result_skip("every_outcome_was_seen: the machine is slow\n");
	} else if (!fuzz.max_ops) {
		ksft_test_result(all_ops_ran(), "every_kind_of_operation_ran\n");
		ksft_test_result(all_outcomes_seen(), "every_outcome_was_seen\n");
	}
	ksft_finished();
}
