// SimCLR's random views of images, drawn for a whole batch at once.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

namespace backstop::badencoder {

/// A part of each image (float [n, C, H, W] in [0, 1]) with 8 to 100 % of its area and sides of
/// 3:4 to 4:3, resized to the whole; half of them mirrored. Where such a part does not fit into the
/// image, it is made to fit.
at::Tensor cropped(const at::Tensor& images, at::Generator& generator);

/// With probability 0.8 brightness, contrast and saturation change by a factor of 0.6 to 1.4 and
/// the hue by up to a tenth of the circle; then, with probability 0.2, all colour goes. Of grey
/// images (C is 1) only brightness and contrast change. In this order always: torchvision shuffles
/// it. The hue turns in the plane of YIQ's colours: torchvision's is that of HSV.
at::Tensor recoloured(const at::Tensor& images, at::Generator& generator);

/// Each image mirrored with probability 0.5.
at::Tensor mirrored(const at::Tensor& images, at::Generator& generator);

}  // namespace backstop::badencoder
