# SPDX-License-Identifier: MIT
# The distribution of beta in every layer as a heat map, with its median and the bounds of the regimes.
#
#   input    CSV with a header line and the columns layer,low,high,share,median: one row for each bin of each layer, layers
#            numbered from 1; low and high bound the bin, share is the part of the layer's samples in it (0 to 1), median
#            is the layer's
#   output   name of the pictures, without .svg and .png
#
#   gnuplot -e "input='gates.csv'; output='gates'" gates.gp

if (!exists("input")) input = "gates.csv"
if (!exists("output")) output = "gates"

set datafile separator comma
stats input using 1 skip 1 nooutput
layers = STATS_max

set xrange [0.5:layers + 0.5]
set yrange [0:2]
set xtics 1, (layers > 16 ? ceil(layers / 12) : 1)
set ytics 0.5
set xlabel "layer"
set encoding utf8
set ylabel "gate β" offset 3
set cblabel "share of samples in a bin (%)"
set format cb "%g"
set cbrange [0:*]
# Light to dark, one hue after the other, and readable in grey.
set palette defined (0 "#ffffff", 0.15 "#d6e6f4", 0.4 "#6baed6", 0.7 "#2171b5", 1 "#08244d")
set colorbox user origin screen 0.855, graph 0 size screen 0.02, graph 1
set cbtics offset -0.5 nomirror
set cblabel offset 0.5
set border 3
set tics nomirror out
set key outside top center horizontal noautotitle Left reverse
set lmargin at screen 0.13
set rmargin at screen 0.69
set style fill solid noborder

do for [format in "svg png"] {
  if (format eq "svg") { set terminal svg size 800,500 font "sans,18" background rgb "white" }
  else { set terminal pngcairo size 1200,750 font "sans,25" linewidth 1.5 }
  set output output . "." . format
  set arrow 1 from graph 0, first 0.5 to graph 1, first 0.5 nohead dt 2 lw 1.2 lc rgb "#555555" front
  set arrow 2 from graph 0, first 1.5 to graph 1, first 1.5 nohead dt 2 lw 1.2 lc rgb "#555555" front
  set label 1 "keeps" at graph 1.015, first 0.25 tc rgb "#555555"
  set label 2 "overwrites" at graph 1.015, first 1 tc rgb "#555555"
  set label 3 "reflects" at graph 1.015, first 1.75 tc rgb "#555555"
  plot input using ($4 > 0 ? $1 : NaN):(($2 + $3) / 2):($1 - 0.5):($1 + 0.5):2:3:(100 * $4) skip 1 with boxxyerror fc palette, \
       input using ($1 - 0.46):5:(0.92):(0) skip 1 with vectors nohead lw 3.5 lc rgb "#d55e00", \
       keyentry with lines lw 3.5 lc rgb "#d55e00" title "median"
}
