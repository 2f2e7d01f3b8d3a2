/* UTF-8 as RFC 3629 has it: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef UTF8_H
#define UTF8_H

#include <stddef.h>

/* Bytes of the character that begins here, at most `left`; 0 where none does. */
size_t utf8_length(const unsigned char *text, size_t left);

#endif
