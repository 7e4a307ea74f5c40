// How the plugin says what is wrong.
#pragma once

#include <NvInferRuntime.h>

namespace dartblur::trt {

// Where the logger of whoever runs is asked for; null before TensorRT has told.
void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept;

// Logs an error of one line, to standard error where there is no logger. Allocates nothing and throws nothing.
#ifdef __GNUC__
__attribute__((format(printf, 1, 2)))
#endif
void report(const char* format, ...) noexcept;

}  // namespace dartblur::trt
