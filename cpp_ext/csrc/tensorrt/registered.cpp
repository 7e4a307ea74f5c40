// Registers the plugin as soon as the library is loaded: for programs that load it by dlopen and call nothing. Where
// TensorRT itself loads a plugin library, library.cpp is asked; a plugin that is registered by then would be refused.
#include "plugin.h"
#include "report.h"

namespace dartblur::trt {
namespace {

struct Registration {
    Registration() noexcept {
        nvinfer1::IPluginRegistry* registry = getPluginRegistry();
        if (!registry || !registry->registerCreator(creator, kNamespace)) {
            report("DartBlurComposite: TensorRT did not register the plugin: load it once only, and into a program "
                   "that uses TensorRT");
        }
    }
    CompositeCreator creator;
};

const Registration registration;

}  // namespace
}  // namespace dartblur::trt
