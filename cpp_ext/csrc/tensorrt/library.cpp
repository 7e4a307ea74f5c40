// What TensorRT looks for in a plugin library, as IPluginRegistry::loadLibrary and trtexec --dynamicPlugins load it.
#include "plugin.h"
#include "report.h"

#define DARTBLUR_EXPORT extern "C" __attribute__((visibility("default")))

DARTBLUR_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { dartblur::trt::set_logger_finder(finder); }

DARTBLUR_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
    static dartblur::trt::CompositeCreator creator;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
    count = 1;
    return creators;
}
