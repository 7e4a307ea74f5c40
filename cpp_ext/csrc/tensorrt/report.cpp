#include "report.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>

namespace dartblur::trt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

nvinfer1::ILogger* logger() noexcept {
    nvinfer1::ILoggerFinder* finder = logger_finder.load();
    if (!finder) return nullptr;
    try {
        return finder->findLogger();
    } catch (...) {
        return nullptr;
    }
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) noexcept { logger_finder.store(finder); }

void report(const char* format, ...) noexcept {
    char line[512];
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(line, sizeof line, format, values);
    va_end(values);
    if (nvinfer1::ILogger* to = logger()) {
        to->log(nvinfer1::ILogger::Severity::kERROR, line);
    } else {
        std::fprintf(stderr, "%s\n", line);
    }
}

}  // namespace dartblur::trt
