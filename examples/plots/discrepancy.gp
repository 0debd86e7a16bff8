# SPDX-License-Identifier: MIT
# The discrepancy |k^T X - v| of every layer before and after its edit: means over the samples, and one standard deviation.
#
#   input    CSV with a header line and the columns layer,before,before_deviation,after,after_deviation,reduced, layers
#            numbered from 1; reduced is the share of samples in which the edit reduced it (0 to 1)
#   output   name of the pictures, without .svg and .png
#
#   gnuplot -e "input='discrepancy.csv'; output='discrepancy'" discrepancy.gp

if (!exists("input")) input = "discrepancy.csv"
if (!exists("output")) output = "discrepancy"

set datafile separator comma
stats input using 1 skip 1 nooutput
layers = STATS_max
step = layers > 16 ? ceil(layers / 12) : 1

set xrange [0.5:layers + 0.5]
set border 3
set tics nomirror out
set key outside top center horizontal noautotitle Left reverse
set grid ytics lc rgb "#dddddd" lw 1
set style fill solid 0.9 noborder
set boxwidth 0.6

do for [format in "svg png"] {
  if (format eq "svg") { set terminal svg size 800,600 font "sans,18" background rgb "white"; point = 0.45 }
  else { set terminal pngcairo size 1200,900 font "sans,25" linewidth 1.5; point = 1 }
  set output output . "." . format
  set multiplot
  set lmargin at screen 0.19
  set rmargin at screen 0.97

  set tmargin at screen 0.90
  set bmargin at screen 0.44
  set yrange [0:*]
  set ytics autofreq
  set ylabel "|k^T X - v|\n(units of the state)"
  set xtics 1, step
  set format x ""
  unset xlabel
  plot input using ($1 - 0.1):2:3 skip 1 with yerrorbars pt 7 ps 1.2 * point lw 2 lc rgb "#0072b2" title "before the edit", \
       input using ($1 + 0.1):4:5 skip 1 with yerrorbars pt 5 ps 1.2 * point lw 2 lc rgb "#d55e00" title "after"

  set tmargin at screen 0.38
  set bmargin at screen 0.15
  set yrange [0:100]
  set ytics 50
  set ylabel "reduced\n(% of samples)"
  set xlabel "layer"
  set format x "%g"
  plot input using 1:(100 * $6) skip 1 with boxes lc rgb "#56b4e9"
  unset multiplot
}
