#include "peak.h"

#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif
#endif

enum { STEPS = 256, CHAINS = 12 }; /* a round; enough independent chains to hide an instruction's latency */

static volatile float float_sink;
static volatile int32_t integer_sink;

/* Chains of x = x * m + a over vectors of so many bytes, unrolled by the compiler. */
#define FLOAT_LOOP(name, vector_bytes, attributes)                                                      \
    attributes static double name(long rounds) {                                                        \
        typedef float vector __attribute__((vector_size(vector_bytes)));                                \
        vector chains[CHAINS], factor, term;                                                            \
        for (int i = 0; i < (int)(vector_bytes / sizeof(float)); i++) {                                 \
            factor[i] = 0.75F;                                                                          \
            term[i] = 0.25F;                                                                            \
            for (int chain = 0; chain < CHAINS; chain++) chains[chain][i] = (float)(chain + i);         \
        }                                                                                               \
        for (long step = 0; step < rounds * STEPS; step++)                                              \
            for (int chain = 0; chain < CHAINS; chain++) chains[chain] = chains[chain] * factor + term; \
        for (int chain = 0; chain < CHAINS; chain++) float_sink = chains[chain][0];                     \
        return (double)(2 * STEPS * CHAINS * vector_bytes / sizeof(float)) * (double)rounds;            \
    }

/* Chains of `step`, which adds products of 8-bit integers to a chain; `hide` keeps the compiler from doing it once. */
#define INTEGER_LOOP(name, attributes, vector, operand, products, hide, multiply_add)     \
    attributes static double name(long rounds) {                                          \
        vector chains[CHAINS], zero = {0};                                                \
        operand left = {3}, right = {5};                                                  \
        for (int chain = 0; chain < CHAINS; chain++) chains[chain] = zero;                \
        for (long step = 0; step < rounds * STEPS; step++)                                \
            for (int chain = 0; chain < CHAINS; chain++) {                                \
                hide(left);                                                               \
                chains[chain] = multiply_add(chains[chain], left, right);                 \
            }                                                                             \
        for (int chain = 0; chain < CHAINS; chain++) integer_sink = (int32_t)chains[chain][0]; \
        return (double)(2 * STEPS * CHAINS * (products)) * (double)rounds;                \
    }

#define PLAIN

#if defined(__x86_64__)

#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f")))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define HIDE(value) __asm__ volatile("" : "+x"(value))
#define HIDE_WIDE(value) __asm__ volatile("" : "+v"(value))
#define SSE_STEP(chain, left, right) _mm_add_epi32(chain, _mm_madd_epi16(left, right)) /* 16 bits: SSE2 has no less */
#define AVX2_STEP(chain, left, right) \
    _mm256_add_epi32(chain, _mm256_madd_epi16(_mm256_maddubs_epi16(left, right), _mm256_set1_epi16(1)))

FLOAT_LOOP(float_sse, 16, PLAIN)
FLOAT_LOOP(float_avx2, 32, AVX2)
FLOAT_LOOP(float_avx512, 64, AVX512)
INTEGER_LOOP(int8_sse, PLAIN, __m128i, __m128i, 8, HIDE, SSE_STEP)
INTEGER_LOOP(int8_avx2, AVX2, __m256i, __m256i, 32, HIDE, AVX2_STEP)
INTEGER_LOOP(int8_vnni, VNNI, __m512i, __m512i, 64, HIDE_WIDE, _mm512_dpbusd_epi32)

enum level { SSE, HAS_AVX2, HAS_AVX512, HAS_VNNI };

/* What this core has and the kernel saves; asked by hand, for not every compiler's own answer is one. */
static enum level level(void) {
    const unsigned fma = 1u << 12, saved = 1u << 27, avx2 = 1u << 5, avx512f = 1u << 16, avx512bw = 1u << 30;
    const unsigned vnni = 1u << 11, wide = 0x6, widest = 0xE6;
    unsigned a, b, c, d, c1, state, unused;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || (c1 & saved) == 0 || (c1 & fma) == 0) return SSE;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & avx2) == 0) return SSE;
    __asm__("xgetbv" : "=a"(state), "=d"(unused) : "c"(0));
    if ((state & wide) != wide) return SSE;
    if ((state & widest) != widest || (b & avx512f) == 0) return HAS_AVX2;
    return (b & avx512bw) != 0 && (c & vnni) != 0 ? HAS_VNNI : HAS_AVX512;
}

double (*peak_float32(void))(long rounds) {
    switch (level()) {
        case SSE: return float_sse;
        case HAS_AVX2: return float_avx2;
        default: return float_avx512;
    }
}

double (*peak_int8(void))(long rounds) {
    switch (level()) {
        case SSE: return int8_sse;
        case HAS_VNNI: return int8_vnni;
        default: return int8_avx2;
    }
}

#elif defined(__ARM_NEON)

#define HIDE(value) __asm__ volatile("" : "+w"(value))

static inline int32x4_t widening(int32x4_t chain, int8x16_t left, int8x16_t right) {
    int16x8_t products = vmull_s8(vget_low_s8(left), vget_low_s8(right));
    return vpadalq_s16(chain, vmlal_s8(products, vget_high_s8(left), vget_high_s8(right)));
}

FLOAT_LOOP(float_neon, 16, PLAIN)
INTEGER_LOOP(int8_neon, PLAIN, int32x4_t, int8x16_t, 16, HIDE, widening)

double (*peak_float32(void))(long rounds) { return float_neon; }

#if defined(__aarch64__)

#define DOT __attribute__((target("arch=armv8.2-a+dotprod")))
enum { HAS_DOT = 1 << 20 };

INTEGER_LOOP(int8_dot, DOT, int32x4_t, int8x16_t, 16, HIDE, vdotq_s32)

double (*peak_int8(void))(long rounds) { return (getauxval(AT_HWCAP) & HAS_DOT) != 0 ? int8_dot : int8_neon; }

#else

double (*peak_int8(void))(long rounds) { return int8_neon; }

#endif
#else
#error "no loops for this architecture"
#endif
